"""Which examples a step sees, and that nothing about reading them depends on who reads."""

import random

import numpy as np
import pytest
import torch

from marrow.core.collate import collate, parts_of, split
from marrow.core.errors import MarrowError
from marrow.core.loader import Data, batch_sizes, batches, train_batches
from marrow.core.settings import Settings

from .engine_pieces import Pictures, noisy


def taken(stream, steps):
    return [next(stream) for _ in range(steps)]


def equal(a, b):
    return all(torch.equal(x[k], y[k]) for x, y in zip(a, b, strict=True) for k in ("image", "label", "index"))


def test_epochs_follow_without_a_gap():
    stream = train_batches(Data({"train": Pictures(10)}), ("train",), None, Settings(steps=1, batch=4))
    seen = torch.cat([b["index"] for b in taken(stream, 5)]).tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert stream.keys(2)["train"] == [(0, seen[8]), (0, seen[9]), (1, seen[10]), (1, seen[11])]


def test_ranks_share_a_batch_and_a_start_skips_it():
    data, settings = Data({"train": Pictures(10)}), Settings(steps=1, batch=4)
    whole = taken(train_batches(data, ("train",), noisy, settings), 6)
    halves = [taken(train_batches(data, ("train",), noisy, settings, 0, rank, 2), 6) for rank in (0, 1)]
    joined = [{k: torch.cat([a[k], b[k]]) for k in a} for a, b in zip(*halves)]
    assert equal(whole, joined)
    assert equal(whole[4:], taken(train_batches(data, ("train",), noisy, settings, 4), 2))


def test_two_workers_read_what_none_reads():
    data = Data({"a": Pictures(10), "b": Pictures(7, seed=1, broken={3})})
    settings = Settings(steps=1, batch={"a": 4, "b": 2})
    alone, spread = (
        train_batches(data, ("a", "b"), noisy, Settings(**{**vars(settings), "workers": w})) for w in (0, 2)
    )
    first, second = taken(alone, 9), taken(spread, 9)
    for stream in ("a", "b"):
        assert equal([b[stream] for b in first], [b[stream] for b in second])
    assert alone.unreadable == {"picture-3": "truncated"}
    assert spread.unreadable == alone.unreadable


@pytest.mark.parametrize("workers", [0, 2])
def test_reading_leaves_the_callers_random_numbers_alone(workers):
    def drawn():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()

    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = drawn()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    settings = Settings(steps=1, batch=4, workers=workers)
    taken(train_batches(Data({"train": Pictures(10)}), ("train",), noisy, settings), 3)
    list(batches(Pictures(10), noisy, 4, workers))
    assert drawn() == expected


def test_an_unreadable_example_is_replaced_by_the_next_in_training_and_left_out_in_a_pass():
    broken = Pictures(10, broken={2, 3})
    stream = train_batches(Data({"train": broken}), ("train",), None, Settings(steps=1, batch=10))
    assert sorted(next(stream)["index"].tolist()) == [0, 1, 4, 4, 4, 5, 6, 7, 8, 9]
    assert torch.cat([b["index"] for b in batches(broken, None, 4)]).tolist() == [0, 1, 4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize("workers", [0, 1])
def test_mostly_unreadable_data_is_refused(workers):
    stream = train_batches(
        Data({"train": Pictures(10, broken=set(range(6)))}),
        ("train",),
        None,
        Settings(steps=1, batch=10, workers=workers),
    )
    with pytest.raises(MarrowError, match=r"^data: 6 of the 10 examples .* cannot be read \(picture-\d: truncated;"):
        next(stream)


def test_bad_streams_are_named():
    with pytest.raises(MarrowError, match="needs the stream 'train'; given: pool"):
        train_batches(Data({"pool": Pictures(4)}), ("train",), None, Settings(steps=1))
    with pytest.raises(MarrowError, match="'train' has no examples"):
        train_batches(Data({"train": Pictures(0)}), ("train",), None, Settings(steps=1))
    with pytest.raises(MarrowError, match="a batch of 5 .* cannot be shared by 2 processes"):
        batch_sizes(Settings(steps=1, batch=5), ("train",), 2)
    with pytest.raises(MarrowError, match=r"each of the streams \['a', 'b'\], got \['a'\]"):
        batch_sizes(Settings(steps=1, batch={"a": 1}), ("a", "b"))


def test_collate_stacks_what_it_can():
    batch = collate(
        [
            {"image": torch.zeros(3, 2, 2), "label": 1, "name": "x", "boxes": torch.zeros(2, 4), "meta": {"snr": 1.5}},
            {"image": torch.ones(3, 2, 2), "name": "y", "boxes": torch.zeros(0, 4), "meta": {"snr": 2.5}},
        ]
    )
    assert batch["image"].shape == (2, 3, 2, 2)
    assert [b.shape[0] for b in batch["boxes"]] == [2, 0]
    assert batch["name"] == ["x", "y"]
    assert batch["meta"]["snr"].tolist() == [1.5, 2.5]
    assert "label" not in batch


def test_split_cuts_streams_and_ragged_lists_alike():
    batch = {"a": {"x": torch.arange(6)}, "b": {"y": list("opqr")}}
    assert parts_of({"a": 6, "b": 4}, 7) == 2
    first, second = split(batch, {"a": 6, "b": 4}, 2)
    assert first[0]["a"]["x"].tolist() == [0, 1, 2] and first[0]["b"]["y"] == ["o", "p"]
    assert second[0]["b"]["y"] == ["q", "r"] and first[1] == second[1] == 0.5
    shares = [share for _, share in split({"x": torch.arange(5)}, {"train": 5}, parts_of({"train": 5}, 2))]
    assert shares == [0.2, 0.4, 0.4]
    with pytest.raises(MarrowError, match="cannot be cut into equal parts of at most 2"):
        parts_of({"a": 6, "b": 5}, 2)
    with pytest.raises(MarrowError, match="'train.x' does not hold one entry for each of the 5"):
        list(split({"x": torch.arange(4)}, {"train": 5}, 2))


def test_orders_of_different_seeds_and_streams_differ():
    def first(stream, seed):
        data = Data({stream: Pictures(48)})
        return next(train_batches(data, (stream,), None, Settings(steps=1, batch=48, seed=seed)))["index"].tolist()

    assert first("a", 0) == first("a", 0)
    assert first("a", 0) != first("a", 1)
    assert first("a", 0) != first("b", 0)
