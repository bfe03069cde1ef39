import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.source import Source
from marrow.data.combine import Joined, Subset
from marrow.data.domains import OfDomain
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
        return {"image": torch.tensor([255 * pair[0], 100 + 155 * pair[1]], dtype=torch.uint8).view(1, 1, 2), **label}

    def label(self, index: int) -> int | None:
        return self[index].get("label")


class Dark(Pairs):
    """The second pixel is darker than in any of the others, and the labels are the other way round."""

    def __getitem__(self, index: int) -> dict:
        image = torch.tensor([255 * (index % 2), 0], dtype=torch.uint8).view(1, 1, 2)
        return {"image": image, "label": 1 - index % 2}


def rows(common: Backbone, salient: Backbone, background: str | None = None, dark: int = 0) -> dict[str, dict]:
    streams: dict[str, Source] = {
        f"{kind}_{part}": Pairs(number)
        for number, kind in enumerate(("common", "salient"))
        for part in ("train", "test")
    }
    if dark:
        for name in ("common_train", "common_test"):
            healthy = Subset(Dark(0), range(dark))
            streams[name] = Joined([OfDomain(healthy, "healthy"), OfDomain(streams[name], "ill")])
    models = {"common": common, "salient": salient}
    report = Separation(background=background).run(models, Data(streams), Engine(device="cpu"))
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


def test_which_set_a_picture_is_from_is_read_from_each_code():
    plain, found = rows(Pixel(0), Pixel(1)), rows(Pixel(0), Pixel(1), "healthy", dark=20)
    assert found["salient_tells_set"] == {"metric": "salient_tells_set", "value": 1.0, "n": 60, "chance": 2 / 3}
    assert found["common_tells_set"] == {"metric": "common_tells_set", "value": 2 / 3, "n": 60, "chance": 2 / 3}
    assert {name: found[name] for name in plain} == plain and len(found) == len(plain) + 2
    swapped = rows(Pixel(1), Pixel(0), "healthy", dark=20)
    assert swapped["common_tells_set"]["value"] == 1.0 and swapped["salient_tells_set"]["value"] == 2 / 3


def test_the_domain_of_backgrounds_is_one_of_several():
    with pytest.raises(MarrowError, match="^separation.common_train: the images do not say which domain they are from"):
        rows(Pixel(0), Pixel(1), "healthy")
    with pytest.raises(MarrowError, match="^separation.background: the pictures of 'common_train' are of the domains healthy, "
                       "ill; 'well' and another are needed"):  # fmt: skip
        rows(Pixel(0), Pixel(1), "well", dark=20)


def test_labels_are_needed():
    streams = {name: Pairs(None) for name in Separation.streams}
    with pytest.raises(MarrowError, match="the stream 'salient_train' has images without labels"):
        Separation().run({"common": Pixel(0), "salient": Pixel(1)}, Data(streams), Engine(device="cpu"))
