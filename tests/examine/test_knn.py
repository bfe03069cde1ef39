import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.data import open_source
from marrow.examine.knn import KNN
from marrow.tasks.classify import Classify
from marrow.tasks.embed import Embed


class Flat(Backbone):
    """The pixels of a grey image as features."""

    spec, gives = {"source": "test:flat"}, frozenset({"pooled"})

    def __init__(self, size: int = 2):
        super().__init__()
        self.dim, self.input = size**2, Input(size=(size, size), channels=1)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1).float())


class Pixels(Source):
    """Images of four grey pixels, labelled or not."""

    def __init__(self, *pixels: tuple[int, ...], labels: tuple[int, ...] | None = None):
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


TRAIN = Pixels((9, 0, 0, 0), (9, 1, 0, 0), (0, 9, 0, 0), (0, 0, 9, 0), (0, 0, 9, 1), labels=(0, 0, 1, 2, 2))


def run(test: Source, model=None, train: Source = TRAIN, **arguments):
    probe = KNN(**({"k": 2} | arguments))
    return probe.run({"model": model or Flat()}, Data({"train": train, "test": test}), Engine(device="cpu"))


def test_accuracy_by_hand():
    # Nearest: classes 0, 0, 2 and, for (0, 5, 0, 0), one neighbour of class 1 far before any other.
    test = Pixels((7, 0, 0, 0), (5, 1, 0, 0), (0, 0, 5, 0), (0, 5, 0, 0), labels=(0, 0, 0, 1))
    report = run(test)
    top1, balanced = report.rows
    assert top1 == {"metric": "knn_top1", "value": 0.75, "n": 4, "k": 2, "train": 5}
    assert balanced["metric"] == "knn_balanced_top1" and balanced["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert report.tensors["confusion"].tolist() == [[2, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_the_temperature_says_how_much_nearer_neighbours_count():
    # Of class 1 one image at cosine 1, of class 0 two at 0.8.
    train = Pixels((3, 4, 0, 0), (8, 0, 6, 0), (8, 0, 0, 6), labels=(1, 0, 0))
    test = Pixels((3, 4, 0, 0), labels=(1,))
    assert run(test, train=train, k=3, temperature=0.1).rows[0]["value"] == 1.0
    assert run(test, train=train, k=3, temperature=100.0).rows[0]["value"] == 0.0


def test_pixels_tell_real_digits_apart_and_a_task_stands_for_its_backbone():
    net = Flat(8)
    train, test = (open_source({"images": "digits", "split": split}) for split in ("train", "val"))
    data = Data({"train": train, "test": test})
    found = [
        KNN().run({"model": m}, data, Engine(device="cpu")).rows for m in (net, Embed(net), Classify(net, classes=10))
    ]
    assert found[0][0]["value"] > 0.95
    assert found[0] == found[1] == found[2]


def test_images_without_labels_are_refused():
    labelled, bare = Pixels((1, 0, 0, 0), labels=(0,)), Pixels((1, 0, 0, 0))
    with pytest.raises(MarrowError, match="stream 'test' has images without labels"):
        run(bare)
    with pytest.raises(MarrowError, match="stream 'train' has images without labels"):
        run(labelled, train=bare, k=1)


def test_other_bad_input_is_refused():
    with pytest.raises(MarrowError, match="0.0 is not a positive number"):
        KNN(temperature=0.0)
    with pytest.raises(MarrowError, match="20 neighbours cannot be found among 5 examples"):
        run(TRAIN, k=20)
