import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import VOID, Source
from marrow.examine.dense_probe import DenseProbe


class Pooled(Backbone):
    """A map of 4 x 4 means of the pixels of an 8 x 8 picture; `blind` sees noise instead."""

    spec, dim, gives, input, stages = (
        {"source": "test:pooled"},
        1,
        frozenset({"maps"}),
        Input(size=(8, 8), channels=1),
        1,
    )

    def __init__(self, blind: bool = False):
        super().__init__()
        self.blind = blind

    def features(self, x, *, maps=()):
        found = torch.nn.functional.avg_pool2d(x.float(), 2)
        if self.blind:
            found = torch.rand(found.shape, generator=torch.Generator().manual_seed(0))
        return Features(found.mean((2, 3)), tuple(found for _ in maps))


class Blocks(Source):
    """Pictures whose class 1 is bright: blocks of 4 x 4 pixels, drawn; the first row is not known."""

    def __init__(self, seed: int, masks: bool = True):
        draw = torch.Generator().manual_seed(seed)
        self.coarse, self.masks = torch.randint(0, 2, (20, 2, 2), generator=draw), masks

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict:
        mask = self.coarse[index].repeat_interleave(4, 0).repeat_interleave(4, 1)
        image = (200 * mask + 20).to(torch.uint8)[None]
        mask = mask.clone()
        mask[0] = VOID
        return {"image": image, **({"mask": mask} if self.masks else {})}

    def name(self, index: int) -> str:
        return f"blocks {index}"


def rows(backbone: Backbone) -> dict[str, dict]:
    data = Data({"train": Blocks(0), "test": Blocks(1)})
    report = DenseProbe().run({"model": backbone}, data, Engine(device="cpu"))
    return {row["metric"]: row for row in report.rows if "class" not in row}


def test_what_the_map_shows_is_found_and_noise_is_not():
    seen, blind = rows(Pooled()), rows(Pooled(blind=True))
    assert seen["pixel_accuracy"]["value"] == pytest.approx(1.0) and seen["miou"]["n"] == 20
    assert seen["miou"]["train"] == 20 * 16
    assert blind["miou"]["value"] < 0.6


def test_masks_are_needed():
    data = Data({"train": Blocks(0, masks=False), "test": Blocks(1)})
    with pytest.raises(MarrowError, match="the images have no masks"):
        DenseProbe().run({"model": Pooled()}, data, Engine(device="cpu"))
    with pytest.raises(MarrowError, match="the model has 2 backbones.*`part:`"):
        DenseProbe().run({"model": torch.nn.ModuleList([Pooled(), Pooled()])}, data, Engine(device="cpu"))
