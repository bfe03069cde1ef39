import pytest
import torch

from marrow.nn.ranking import (
    average_precision,
    average_precision_at,
    leave_one_out,
    precision_at,
    recall_at,
    share_found_at,
)

HITS = torch.tensor([[True, False, True, False], [False, False, False, True], [False, True, True, True]])


def test_measures_by_hand():
    assert recall_at(HITS, 1).tolist() == [1, 0, 0] and recall_at(HITS, 2).tolist() == [1, 0, 1]
    assert precision_at(HITS, 3).tolist() == pytest.approx([2 / 3, 0, 2 / 3])
    assert share_found_at(HITS, 3, torch.tensor([2, 0, 8])).tolist() == [1, 0, 1 / 4]
    assert average_precision(HITS).tolist() == pytest.approx([(1 + 2 / 3) / 2, 1 / 4, (1 / 2 + 2 / 3 + 3 / 4) / 3])
    assert average_precision_at(HITS, 3).tolist() == pytest.approx([(1 + 2 / 3) / 3, 0.0, (1 / 2 + 2 / 3) / 3])


def test_nobody_finds_itself_and_who_is_alone_does_not_ask():
    embedding = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.5, 1.0], [-1.0, 0.0]])
    label = torch.tensor([0, 1, 1, 0, 2])
    for chunk in (1, 2, 256):
        [*parts] = leave_one_out(embedding, label, chunk)
        # The order of the others: 1 3 2 4, 0 3 2 4, 3 1 0 4, 2 1 0 4.
        wanted = [
            [False, True, False, False],
            [False, False, True, False],
            [False, True, False, False],
            [False, False, True, False],
        ]
        assert torch.cat(parts).tolist() == wanted
        first = torch.cat([*leave_one_out(embedding, label, chunk, places=2)])
        assert first.tolist() == [row[:2] for row in wanted]
