import pytest
import torch
from torchvision.io import decode_jpeg, encode_jpeg

from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source, Unreadable
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.nn.top_k import select_topk_per_class
from marrow.tasks.classify import Classify
from marrow.teach.ssld_select import SSLDSelect
from marrow.teach.supervised import Supervised


class Listed(Source):
    """Pictures from a list; None cannot be read."""

    def __init__(self, pictures: list):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        if self.pictures[index] is None:
            raise Unreadable(self.name(index), "damaged")
        return {"image": self.pictures[index]}

    def fraction(self, index: int) -> float:
        return index / len(self)

    def name(self, index: int) -> str:
        return f"picture {index}"


@pytest.fixture(scope="module")
def teacher() -> Classify:
    torch.manual_seed(0)
    backbone = TimmBackbone.create("resnet10t", img_size=32, channels=(16, 32, 64, 64), stem_width=8)
    task = Classify(backbone, classes=10)
    settings = Settings(steps=60, batch=64, optim={"main": Optim(lr=3e-3)})
    Engine(settings, device="cpu").train(
        Supervised(task), Data({"train": open_source({"images": "digits", "split": "train"})})
    )
    task.labels = [str(i) for i in range(10)]
    return task


@pytest.fixture(scope="module")
def pictures() -> list[torch.Tensor]:
    source = open_source({"images": "digits", "split": "val"})
    return [source[i]["image"] for i in range(120)]


def selected(teacher: Classify, pool: list, held_out: list, **arguments) -> SSLDSelect:
    method = SSLDSelect(teacher, **arguments)
    method.fit(Engine(device="cpu"), Data({"pool": Listed(pool), "held_out": Listed(held_out)}))
    return method


def posteriors(teacher: Classify, pictures: list) -> torch.Tensor:
    with torch.no_grad():
        return teacher.eval()({"image": torch.stack(pictures)})["logits"].softmax(-1)


BLANK = [torch.zeros(3, 32, 32, dtype=torch.uint8)]


def test_it_keeps_the_surest_of_each_class(teacher, pictures):
    table = selected(teacher, pictures, BLANK, k=5).product()
    probs = posteriors(teacher, pictures)
    assert torch.equal(table.columns["index"], select_topk_per_class(probs, 5))
    assert torch.equal(table.columns["label"], probs[table.columns["index"]].argmax(-1))
    torch.testing.assert_close(table.columns["confidence"], probs[table.columns["index"]].amax(-1))
    assert table.columns["label"].bincount().max() == 5
    assert table.classes == teacher.labels


def test_near_duplicates_of_held_out_pictures_are_removed_and_counted(teacher, pictures):
    held_out = pictures[:10]
    copies = [decode_jpeg(encode_jpeg(p, quality=80)) for p in held_out]
    pool = [p.flip(-2) for p in pictures[10:60]] + copies
    method = selected(teacher, pool, held_out, k=100, cosine=0.95, bits=3)
    assert not set(range(50, 60)) & set(method.product().columns["index"].tolist())
    assert 10 <= method.removed <= 20
    assert len(method.product()) == 60 - method.removed
    assert selected(teacher, pool, BLANK, k=100).removed == 0


def test_positions_hold_where_a_picture_cannot_be_read(teacher, pictures):
    damaged = [*pictures[:3], None, *pictures[4:60]]
    table = selected(teacher, damaged, BLANK, k=100).product()
    assert table.columns["index"].tolist() == [i for i in range(60) if i != 3]


def test_what_cannot_be_done_is_refused(teacher, pictures):
    with pytest.raises(MarrowError, match="0 images a class"):
        SSLDSelect(teacher, k=0)
    with pytest.raises(MarrowError, match="a cosine of 2 is outside"):
        SSLDSelect(teacher, cosine=2)
    with pytest.raises(MarrowError, match="65 of 64 bits"):
        SSLDSelect(teacher, bits=65)
    with pytest.raises(MarrowError, match="nothing was selected yet"):
        SSLDSelect(teacher).product()
    with pytest.raises(MarrowError, match="nothing is left of the pool's 5 images, 5 of them near-duplicates"):
        selected(teacher, pictures[:5], pictures[:5])
