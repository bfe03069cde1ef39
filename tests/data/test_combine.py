import pickle

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.table import Table
from marrow.data import open_sources
from marrow.data.combine import Joined, Subset, Unlabelled
from marrow.data.tables import TableSource


def numbered(count, classes=3, first=0, names=None):
    """Pictures whose first pixel is their number."""
    images = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(first, first + count)
    columns = {"image": images, "label": torch.arange(count) % classes}
    return TableSource(Table(columns, names or list("abc")[:classes]), "numbered")


def number(source, index):
    return int(source[index]["image"][0, 0, 0])


def test_subset_keeps_order_and_renumbers_labels():
    source = Subset(numbered(9), [7, 2, 5], classes=["b", "c"])
    assert [number(source, i) for i in range(3)] == [7, 2, 5]
    assert [source.label(i) for i in range(2)] == [0, 1] and source[0]["label"] == 0
    assert source.name(0) == "numbered/7" and source.fraction(1) == numbered(9).fraction(2)


def test_subset_follows_the_order_of_its_base():
    base = numbered(40)
    kept = list(range(1, 40, 3))
    order = Subset(base, kept).order(torch.Generator().manual_seed(1)).tolist()
    wanted = [i for i in base.order(torch.Generator().manual_seed(1)).tolist() if i in kept]
    assert [kept[i] for i in order] == wanted


def test_subset_may_hold_an_example_twice():
    order = Subset(numbered(5), [3, 3, 1]).order(torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == [0, 1, 2]


def test_joined_counts_through_its_parts():
    source = Joined([numbered(3), numbered(4, first=10)])
    assert [number(source, i) for i in range(7)] == [0, 1, 2, 10, 11, 12, 13]
    assert source.classes == ["a", "b", "c"] and source.label(4) == 1 and source.name(3) == "numbered/0"
    with pytest.raises(IndexError):
        source[7]


def test_joined_order_mixes_and_keeps_each_parts_own():
    parts = [numbered(30), numbered(60)]
    order = Joined(parts).order(torch.Generator().manual_seed(0)).tolist()
    assert sorted(order) == list(range(90))
    generator = torch.Generator().manual_seed(0)
    torch.randperm(90, generator=generator)  # the merging
    assert [i for i in order if i < 30] == parts[0].order(generator).tolist()
    assert 5 < sum(i < 30 for i in order[:45]) < 25


def test_one_unlabelled_part_makes_the_stream_unlabelled():
    source = Joined([numbered(3), Unlabelled(numbered(2, first=5))])
    assert source.classes is None and source.label(0) is None
    assert all(set(source[i]) == {"image"} for i in range(5))


def test_joined_classes_must_agree():
    with pytest.raises(MarrowError, match="^data.train: the joined sources have different classes: a, b, c and x, y"):
        Joined([numbered(3), numbered(4, 2, names=["x", "y"])], "data.train")


def test_a_stream_is_a_list():
    for wrong in ({"images": "digits"}, "digits", []):
        with pytest.raises(MarrowError, match="^data.train: a stream is a list of sources"):
            open_sources(wrong, "data.train")
    assert len(open_sources([{"images": "digits"}, {"images": "digits", "labels": False}])) == 2 * 1797


def test_nested_sources_pass_through_pickle():
    source = Joined([Subset(numbered(9), [8, 1]), Unlabelled(numbered(3, first=20))])
    copy = pickle.loads(pickle.dumps(source))
    assert [number(copy, i) for i in range(5)] == [8, 1, 20, 21, 22] and copy.fingerprint() == source.fingerprint()
