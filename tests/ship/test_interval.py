"""Wilson's interval against its definition and worked numbers."""

import math

import pytest

from marrow.ship.interval import wilson


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
