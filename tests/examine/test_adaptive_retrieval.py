import pytest
import torch
from torch.nn.functional import interpolate

from marrow.backbones.shortened import ShortenedBackbone
from marrow.core.contracts import Backbone, Features, Input, Task
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.data import open_source
from marrow.examine.adaptive_retrieval import AdaptiveRetrieval
from marrow.tasks.embed import Embed
from marrow.tasks.nested_classify import NestedClassify
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
    all_of_it = run(shortlists=(200,), k=5)
    names = ["top1", "map_at_5", "precision_at_5", "recall_at_5"]
    assert [(r["metric"], r["search"]) for r in all_of_it] == [(n, s) for s in ("adaptive", "whole") for n in names]
    few, whole = all_of_it[0], all_of_it[4]
    assert [r["value"] for r in all_of_it[:4]] == [r["value"] for r in all_of_it[4:]]
    precision, recall = (r["value"] for r in all_of_it[2:4])
    assert recall == pytest.approx(precision * 5 / 20)  # 20 images of each class are searched
    short, *_ = run(sizes=(16, 64), shortlists=(20,), k=5)
    assert whole["value"] > 0.8 and short["value"] > whole["value"] - 0.05
    assert short["mega_macs"] == pytest.approx((200 * 16 + 20 * 64) / 1e6) and whole["mega_macs"] == 200 * 64 / 1e6
    assert few["n"] == short["n"] == 200


def test_few_numbers_alone_find_less():
    rows = run(sizes=(2,), shortlists=(), k=5)
    assert rows[0]["value"] < rows[4]["value"] - 0.2


def test_what_makes_no_sense_is_refused():
    with pytest.raises(MarrowError, match="10 answers do not come out of a shortlist of 5"):
        AdaptiveRetrieval(shortlists=(20, 5), k=10)
    with pytest.raises(MarrowError, match="250 answers do not come out of a shortlist of 200. Name longer shortlists"):
        AdaptiveRetrieval(k=250)
    with pytest.raises(MarrowError, match="201 answers do not come out of 200 images"):
        run(shortlists=(300,), k=201)
    with pytest.raises(MarrowError, match="0 answers are too few"):
        AdaptiveRetrieval(k=0)
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


def of(model: Backbone | Task, **arguments) -> list[dict]:
    streams = {name: open_source({"images": "digits", "split": split, "per_class": 20})
               for name, split in (("train", "train"), ("test", "val"))}  # fmt: skip
    return AdaptiveRetrieval(**arguments).run({"model": model}, Data(streams), Engine(device="cpu")).rows


@pytest.mark.parametrize("task", [
    Retrieve(Flat(), classes=10, sizes=(16, 32, 48)),
    Embed(Flat(), sizes=(16, 48)),
    NestedClassify(Flat(), classes=10, sizes=(16, 32, 48)),
])  # fmt: skip
def test_a_task_that_names_its_sizes_is_searched_by_them(task):
    rows = of(task)
    assert rows == of(task, sizes=(16, 48)) and rows[4]["mega_macs"] == 200 * 48 / 1e6
    assert rows[0]["mega_macs"] == pytest.approx((200 * 16 + 200 * 48) / 1e6)
    assert of(task, sizes=(20, 48))[0]["search"] == "adaptive"  # between two that were trained
    for size in (8, 64):
        with pytest.raises(MarrowError, match=f"sizes: size {size} was not trained; a size from 16 to 48 fits"):
            of(task, sizes=tuple(sorted((size, 32))))


def test_one_size_alone_has_no_shortlist():
    for model in (Retrieve(Flat(), classes=10, sizes=(8,)), ShortenedBackbone(Flat(), 8)):
        rows = of(model)
        assert [r["value"] for r in rows[:4]] == [r["value"] for r in rows[4:]]
        assert {r["mega_macs"] for r in rows} == {200 * 8 / 1e6}
    assert of(model, sizes=(8,), k=200)[3]["value"] == 1.0  # all there is comes back


def test_a_label_that_nothing_has_is_not_found():
    few = {"images": "digits", "split": "val", "per_class": 5}
    two = {**few, "only": ["0", "1"], "classes": list("0123456789")}
    streams = {"train": open_source(two), "test": open_source(few)}
    rows = AdaptiveRetrieval(k=5).run({"model": Flat()}, Data(streams), Engine(device="cpu")).rows
    assert all(0 <= r["value"] <= 0.2 for r in rows)  # eight of ten queries find nothing
