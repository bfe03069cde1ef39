import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.examine.adaptive_classification import AdaptiveClassification
from marrow.tasks.classify import Classify
from marrow.tasks.nested_classify import NestedClassify


class Flat(Backbone):
    """The four pixels of a 2 x 2 grey image as features."""

    spec, dim, gives, input = {"source": "test:flat"}, 4, frozenset({"pooled"}), Input(size=(2, 2), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


class Pixels(Source):
    def __init__(self, *pixels: tuple[int, ...], labels: tuple[int, ...] | None):
        self.images = torch.tensor(pixels, dtype=torch.uint8).view(-1, 1, 2, 2)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.images[index], **({"label": self.labels[index]} if self.labels else {})}

    def fraction(self, index: int) -> float:
        return index / len(self)

    def name(self, index: int) -> str:
        return f"pixels {index}"


def task() -> NestedClassify:
    """Size 2 compares the first two pixels, size 4 the last two, ten times as sure."""
    made = NestedClassify(Flat(), classes=2, sizes=(2, 4))
    with torch.no_grad():
        made.head.at(2).weight.copy_(torch.eye(2))
        made.head.at(4).weight.copy_(torch.tensor([[0.0, 0, 10, 0], [0, 0, 0, 10]]))
        for size in (2, 4):
            made.head.at(size).bias.zero_()
    return made


# The first two pixels are right where they differ much, the last two always.
EASY, HARD = (9, 0, 5, 0), (0, 1, 5, 0)
VAL = Pixels(EASY, HARD, EASY, HARD, labels=(0, 0, 0, 0))
TEST = Pixels(EASY, EASY, EASY, HARD, labels=(0, 0, 0, 0))


def test_easy_images_take_fewer_features():
    report = AdaptiveClassification().run(
        {"model": task()}, Data({"thresholds": VAL, "test": TEST}), Engine(device="cpu")
    )
    first, *sizes = report.rows
    assert first == {"metric": "adaptive_top1", "value": 1.0, "n": 4, "largest": 4, "mean_size": 2.5}
    assert [(r["metric"], r["size"], r["value"]) for r in sizes] == [("top1", 2, 0.75), ("top1", 4, 1.0)]
    # Right above what size 2 says of (0, 1): softmax(0, 1) has 0.731.
    assert 0.731 < float(report.tensors["thresholds"][0]) < 0.731 + 0.9 / 99 + 1e-3


def test_what_makes_no_sense_is_refused():
    with pytest.raises(MarrowError, match="Classify has none. matryoshka trains them"):
        AdaptiveClassification().run(
            {"model": Classify(Flat(), classes=2)}, Data({"thresholds": VAL, "test": TEST}), Engine(device="cpu")
        )
    bare = Pixels(EASY, labels=None)
    with pytest.raises(MarrowError, match="the stream 'thresholds' has images without labels"):
        AdaptiveClassification().run({"model": task()}, Data({"thresholds": bare, "test": TEST}), Engine(device="cpu"))
