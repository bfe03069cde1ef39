import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.examine.separation import Separation


class Pixel(Backbone):
    """One pixel of a 1 x 2 picture, or both."""

    spec, gives, input = {"source": "test:pixel"}, frozenset({"pooled"}), Input(size=(1, 2), channels=1)

    def __init__(self, *which: int):
        super().__init__()
        self.which, self.dim = list(which), len(which)

    def features(self, x, *, maps=()):
        return Features(x.flatten(1)[:, self.which].float())


class Pairs(Source):
    """The first pixel is the common label, the second the salient one, which is 1 in a quarter of the pictures."""

    def __init__(self, labels: int | None):
        self.labels, self.classes = labels, None if labels is None else ["no", "yes"]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict:
        pair = index % 2, int(index % 4 == 3)
        label = {} if self.labels is None else {"label": pair[self.labels]}
        return {"image": 255 * torch.tensor(pair, dtype=torch.uint8).view(1, 1, 2), **label}

    def label(self, index: int) -> int | None:
        return self[index].get("label")


def rows(common: Backbone, salient: Backbone) -> dict[str, dict]:
    streams = {
        f"{kind}_{part}": Pairs(number)
        for number, kind in enumerate(("common", "salient"))
        for part in ("train", "test")
    }
    report = Separation().run({"common": common, "salient": salient}, Data(streams), Engine(device="cpu"))
    return {row["metric"]: row for row in report.rows}


def test_codes_that_are_apart_and_codes_that_leak():
    found = rows(Pixel(0), Pixel(1))
    assert found["common_tells_common"]["value"] == found["salient_tells_salient"]["value"] == 1.0
    # Of what the other pixel says 'no' is always the better guess, and 'yes' after a salient pixel.
    assert found["common_tells_salient"] == {"metric": "common_tells_salient", "value": 0.75, "n": 40, "chance": 0.75}
    assert found["salient_tells_common"]["value"] == 0.75 and found["salient_tells_common"]["chance"] == 0.5
    assert found["separation"]["value"] == pytest.approx(0.5)
    assert rows(Pixel(0, 1), Pixel(0, 1))["separation"]["value"] == pytest.approx(0.0)
    assert rows(Pixel(1), Pixel(0))["separation"]["value"] == pytest.approx(-0.5)


def test_labels_are_needed():
    streams = {name: Pairs(None) for name in Separation.streams}
    with pytest.raises(MarrowError, match="the stream 'salient_train' has images without labels"):
        Separation().run({"common": Pixel(0), "salient": Pixel(1)}, Data(streams), Engine(device="cpu"))
