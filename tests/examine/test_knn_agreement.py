import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.examine.knn_agreement import KNNAgreement

REFERENCE = ((8, 1, 0, 0), (8, 0, 4, 0), (0, 0, 0, 9), (1, 9, 0, 0))
TEST = ((9, 0, 0, 0), (0, 9, 0, 0), (0, 0, 1, 9))


class Mixed(Backbone):
    """The four pixels of a 2 x 2 grey image, times a matrix."""

    spec, dim, gives, input = {"source": "test:mixed"}, 4, frozenset({"pooled"}), Input(size=(2, 2), channels=1)

    def __init__(self, matrix: torch.Tensor):
        super().__init__()
        self.register_buffer("matrix", matrix)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float() @ self.matrix)


class Images(Source):
    def __init__(self, images: torch.Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index]}

    def fraction(self, index: int) -> float:
        return index / len(self)

    def name(self, index: int) -> str:
        return f"image {index}"


def pixels(rows: tuple) -> Images:
    return Images(torch.tensor(rows, dtype=torch.uint8).view(-1, 1, 2, 2))


def noise(count: int, size: int, seed: int) -> Images:
    draw = torch.Generator().manual_seed(seed)
    return Images(torch.randint(0, 256, (count, 3, size, size), generator=draw, dtype=torch.uint8))


def run(student: Backbone, teacher: Backbone, reference: Source, test: Source, k: int):
    data = Data({"reference": reference, "test": test})
    return KNNAgreement(k=k).run({"student": student, "teacher": teacher}, data, Engine(device="cpu"))


def test_by_hand():
    plain = Mixed(torch.eye(4))
    # A student that is blind to the third pixel: for the first image, the second reference becomes the nearest instead of
    # the first; the others keep theirs.
    blind = Mixed(torch.diag(torch.tensor([1.0, 1.0, 0.0, 1.0])))
    report = run(blind, plain, pixels(REFERENCE), pixels(TEST), 1)
    assert report.rows == [{"metric": "knn_agreement", "value": pytest.approx(2 / 3), "n": 3, "k": 1, "chance": 0.25}]
    assert report.tensors["shared"].tolist() == [0.0, 1.0, 1.0]
    # Of two neighbours the first image has the same two.
    assert run(blind, plain, pixels(REFERENCE), pixels(TEST), 2).tensors["shared"][0] == 1.0


def test_a_rotated_and_scaled_space_agrees_with_itself():
    draw = torch.Generator().manual_seed(0)
    turn = 3.0 * torch.linalg.qr(torch.randn(4, 4, generator=draw))[0]
    reference, test = (
        Images(torch.randint(0, 256, (n, 1, 2, 2), generator=draw, dtype=torch.uint8)) for n in (200, 40)
    )
    assert run(Mixed(turn), Mixed(torch.eye(4)), reference, test, 10).rows[0]["value"] == 1.0


def test_unrelated_features_agree_by_chance():
    """Two halves of a picture that have nothing to do with each other."""
    left, right = torch.zeros(4, 4), torch.zeros(4, 4)
    left[0, 0] = left[1, 1] = right[2, 2] = right[3, 3] = 1.0
    draw = torch.Generator().manual_seed(0)
    reference, test = (
        Images(torch.randint(1, 256, (n, 1, 2, 2), generator=draw, dtype=torch.uint8)) for n in (200, 300)
    )
    row = run(Mixed(left), Mixed(right), reference, test, 20).rows[0]
    assert row["chance"] == 0.1
    assert row["value"] == pytest.approx(0.1, abs=0.02)


def test_each_model_sees_the_images_at_its_own_size():
    torch.manual_seed(0)
    small = {"channels": (8, 16, 24, 32), "stem_width": 8}
    nets = [TimmBackbone.create("resnet10t", img_size=size, **small) for size in (32, 64)]
    nets[1].load_state_dict(nets[0].state_dict())
    row = run(*nets, noise(30, 64, 0), noise(10, 64, 1), 5).rows[0]
    assert row["chance"] == pytest.approx(5 / 30) and 0.0 < row["value"] < 1.0


def test_more_neighbours_than_images_are_refused():
    plain = Mixed(torch.eye(4))
    with pytest.raises(MarrowError, match="10 neighbours cannot be found among 4 examples"):
        run(plain, plain, pixels(REFERENCE), pixels(TEST), 10)
