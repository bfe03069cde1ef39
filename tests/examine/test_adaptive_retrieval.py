import pytest
import torch
from torch.nn.functional import interpolate

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.data import open_source
from marrow.examine.adaptive_retrieval import AdaptiveRetrieval
from marrow.tasks.retrieve import Retrieve


class Flat(Backbone):
    """The pixels of an 8 x 8 grey digit as features, brightest places first, so that few of them tell something."""

    spec, dim, gives, input = {"source": "test:flat"}, 64, frozenset({"pooled"}), Input(size=(8, 8))

    def __init__(self):
        super().__init__()
        digits = open_source({"images": "digits", "split": "val"})
        shown = interpolate(
            torch.stack([digits[i]["image"][:1].float() for i in range(len(digits))]), (8, 8), mode="area"
        )
        self.register_buffer("order", shown.flatten(1).std(0).argsort(descending=True))

    def features(self, x, *, maps=()):
        return Features(x[:, 0].flatten(1).float()[:, self.order])


def run(labels: bool = True, **arguments) -> list[dict]:
    streams = {name: open_source({"images": "digits", "split": split, "per_class": 20, "labels": labels})
               for name, split in (("train", "train"), ("test", "val"))}  # fmt: skip
    return AdaptiveRetrieval(**arguments).run({"model": Flat()}, Data(streams), Engine(device="cpu")).rows


def test_a_shortlist_of_everything_loses_nothing_and_a_short_one_saves_much():
    few, _, whole, _ = all_of_it = run(shortlists=(200,), k=5)
    assert [(r["metric"], r["search"]) for r in all_of_it] == [("top1", "adaptive"), ("map_at_5", "adaptive"), ("top1", "whole"),
                                                              ("map_at_5", "whole")]  # fmt: skip
    assert all_of_it[0]["value"] == whole["value"] and all_of_it[1]["value"] == all_of_it[3]["value"]
    short, *_ = run(sizes=(16, 64), shortlists=(20,), k=5)
    assert whole["value"] > 0.8 and short["value"] > whole["value"] - 0.05
    assert short["mega_macs"] == pytest.approx((200 * 16 + 20 * 64) / 1e6) and whole["mega_macs"] == 200 * 64 / 1e6
    assert few["n"] == short["n"] == 200


def test_few_numbers_alone_find_less():
    rows = run(sizes=(2,), shortlists=(), k=5)
    assert rows[0]["value"] < rows[2]["value"] - 0.2


def test_what_makes_no_sense_is_refused():
    with pytest.raises(MarrowError, match="10 answers do not come out of a shortlist of 5"):
        AdaptiveRetrieval(shortlists=(20, 5), k=10)
    with pytest.raises(MarrowError, match="size 128 > embedding width 64"):
        run(sizes=(8, 128), shortlists=(20,))
    with pytest.raises(MarrowError, match="300 neighbours cannot be found among 200"):
        run(shortlists=(300,))
    with pytest.raises(MarrowError, match="the stream 'train' has images without labels"):
        run(labels=False)


def test_a_task_stands_for_its_backbone():
    streams = {name: open_source({"images": "digits", "split": "val", "per_class": 3}) for name in ("train", "test")}
    model = Retrieve(Flat(), classes=10)
    rows = AdaptiveRetrieval(shortlists=(10,)).run({"model": model}, Data(streams), Engine(device="cpu")).rows
    assert rows[0]["value"] == 1.0  # every image finds itself
