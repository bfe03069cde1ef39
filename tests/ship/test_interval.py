"""Wilson's interval against its definition and worked numbers; the one of balanced accuracy by drawing."""

import math

import pytest
import torch

from marrow.ship.interval import balanced, wilson


@pytest.mark.parametrize(("right", "n"), [(0, 10), (5, 10), (492, 500), (500, 500)])
def test_the_ends_are_where_the_score_test_turns(right, n):
    """An end p is where the observed share lies 1.96 standard deviations of p away."""
    for end in wilson(right, n):
        if 0 < end < 1:
            assert abs(right / n - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / n), rel=1e-6)


def test_a_share_of_all_still_has_a_lower_end():
    low, high = wilson(10, 10)
    assert (low, high) == (pytest.approx(0.7225, abs=1e-4), pytest.approx(1))


def test_what_is_no_share_is_refused():
    with pytest.raises(ValueError, match="11 of 10"):
        wilson(11, 10)


def matrix(right, n):
    """A confusion matrix with these diagonal entries and row sums."""
    found = torch.diag(torch.as_tensor(right))
    wrong = torch.as_tensor(n) - found.diagonal()
    return found + torch.diag(wrong).roll(1, dims=1)


def test_one_class_is_an_ordinary_share():
    assert balanced(matrix([45, 0], [50, 0])) == pytest.approx(wilson(45, 50))


def test_a_class_without_images_changes_nothing():
    assert balanced(matrix([45, 0, 9], [50, 0, 10])) == pytest.approx(balanced(matrix([45, 9], [50, 10])))


def test_a_class_with_few_images_makes_it_wide():
    width = [high - low for low, high in (balanced(matrix([90, 9], [100, 10])), balanced(matrix([90, 90], [100, 100])))]
    assert width[0] > 2 * width[1]


def test_nothing_wrong_is_not_certain():
    low, high = balanced(matrix([5, 5, 5], [5, 5, 5]))
    assert 0.7 < low < 0.9 and high == pytest.approx(1)


@pytest.mark.parametrize(
    ("n", "recall"),
    [
        ([30] * 10, [0.95] * 10),
        ([300, 100, 50, 20, 10, 8, 5], [0.99, 0.95, 0.9, 0.8, 0.5, 0.6, 0.3]),
        ([300, 100, 50, 20, 10, 8, 5], [0.9, 0.9, 0.95, 0.97, 0.99, 0.99, 0.99]),
        ([5] * 100, [0.3 + 0.007 * i for i in range(100)]),
    ],
)
def test_it_holds_the_true_value_as_often_as_it_says(n, recall):
    draw, tries = torch.Generator().manual_seed(0), 1000
    n, recall = torch.tensor(n), torch.tensor(recall)
    right = torch.binomial(n.expand(tries, -1).float(), recall.expand(tries, -1).float(), generator=draw).long()
    intervals = [balanced(matrix(r, n)) for r in right]
    held = sum(low <= recall.mean() <= high for low, high in intervals) / tries
    assert 0.93 <= held  # 0.95, less two deviations of 1,000 tries and what an approximation costs
    if n.min() >= 30 or len(n) == 100:
        assert held <= 0.985


def test_no_image_at_all_is_refused():
    with pytest.raises(ValueError, match="no class has an image"):
        balanced(torch.zeros(3, 3))
