"""The table of domains: rows by domain, the summary over unseen ones, and what is refused."""

import pytest
import torch

from marrow.core.contracts import Backbone, Features, Input
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.data import open_sources
from marrow.data.combine import Joined
from marrow.data.domains import OfDomain
from marrow.examine.domain_shift import DomainShift
from marrow.tasks.classify import Classify

from ..common.pieces import Noise


class Flat(Backbone):
    spec, dim, gives, input = {"source": "test:flat"}, 2, frozenset({"pooled"}), Input(size=(32, 32))

    def features(self, x, *, maps=()):
        return Features(torch.zeros(len(x), 2))


def always(label: int) -> Classify:
    """Says the same class of every image."""
    task = Classify(Flat(), classes=4)
    with torch.no_grad():
        task.head.bias.copy_(torch.eye(4)[label])
    return task


class Labelled(Noise):
    """`right` of ten images have label 2."""

    def __init__(self, right: int):
        super().__init__(10)
        self.right = right

    def label(self, index: int) -> int:
        return 2 if index < self.right else 1


def table(source, **arguments):
    return DomainShift(**arguments).run({"model": always(2)}, Data({"test": source}), Engine(device="cpu")).rows


def three() -> Joined:
    return Joined([OfDomain(Labelled(right), name) for name, right in (("photo", 9), ("sketch", 3), ("art", 6))])


def test_each_domain_has_rows_of_its_own_and_the_seen_one_is_left_out_of_the_summary():
    rows = table(three(), seen=("photo",))
    top1 = {r["domain"]: (r["value"], r["n"], r["seen"]) for r in rows if r["metric"] == "top1"}
    assert top1 == {"photo": (0.9, 10, True), "sketch": (0.3, 10, False), "art": (0.6, 10, False)}
    summary = {r["metric"]: r["value"] for r in rows[-2:]}
    assert summary == {"mean_top1": pytest.approx(0.45), "worst_top1": 0.3}
    assert rows[-1]["domain"] == "art, sketch" and rows[-1]["n"] == 20


def test_domains_that_share_a_batch_are_told_apart():
    mixed = Noise(30)  # of two domains, one after another
    rows = table(mixed)
    assert {r["domain"]: r["n"] for r in rows if r["metric"] == "top1"} == {"domain 0": 15, "domain 1": 15}


def test_a_source_says_its_domain():
    source = open_sources(
        [{"images": "digits", "split": "test", "domain": "a"}, {"images": "digits", "split": "val", "domain": "b"}]
    )
    assert source[0]["domain"] == "a" and source[len(source) - 1]["domain"] == "b"
    assert "domain" not in open_sources([{"images": "digits"}])[0]
    with pytest.raises(MarrowError, match=r"data\[0\].domain: a name is needed, got 3"):
        open_sources([{"images": "digits", "domain": 3}])


def test_bad_input_is_refused():
    with pytest.raises(MarrowError, match="do not say which domain they are from"):
        table(open_sources([{"images": "digits", "split": "test"}]))
    with pytest.raises(MarrowError, match="all images are from photo, so there is no shift"):
        table(OfDomain(Labelled(5), "photo"))
    with pytest.raises(MarrowError, match="no image is from 'comic'; there are art, photo, sketch"):
        table(three(), seen=("comic",))
    with pytest.raises(MarrowError, match="a backbone gives no answers"):
        DomainShift().run({"model": Flat()}, Data({"test": three()}), Engine(device="cpu"))
