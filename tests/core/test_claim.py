"""A verdict is arithmetic: worked by hand here."""

import math

import pytest

from marrow.core.claim import Claim, drawn, interval95, result, verdict


def claim(**changes):
    values = dict(paper="p", says="s", arms={"a": {}, "b": {}}, measure="top1", better="a", than="b", test=[], data="d",
                  minutes=1.0)  # fmt: skip
    return Claim(**(values | changes))


def test_the_interval_is_students():
    low, high = interval95([1.0, 2.0, 3.0])
    assert low == pytest.approx(2 - 4.302653 / math.sqrt(3), abs=1e-5)
    assert high == pytest.approx(2 + 4.302653 / math.sqrt(3), abs=1e-5)
    assert interval95([1.0]) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("differences", "by", "expected"),
    [
        ([0.10, 0.11, 0.12], 0.08, "holds"),
        ([0.10, 0.11, 0.12], 0.20, "does not hold"),
        ([0.01, 0.30, -0.10], 0.08, "undecided"),
        ([-0.10, -0.11, -0.12], 0.0, "does not hold"),
        ([0.05], 0.0, "undecided"),
    ],
)
def test_verdicts(differences, by, expected):
    assert verdict(differences, by) == expected


def test_the_result_pairs_seeds():
    out = result(claim(by=0.1), "x", {"a": [0.5, 0.7, 0.9], "b": [0.3, 0.5, 0.7]}, {"minutes": 2})
    assert out["difference"] == pytest.approx(0.2) and out["ci95"] == pytest.approx([0.2, 0.2], abs=1e-6)
    assert out["verdict"] == "holds" and out["seeds"] == [0, 1, 2] and out["over_baseline"] == {"a": pytest.approx(0.2)}


def test_a_claim_about_an_arm_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no arm 'c' among a, b"):
        claim(better="c")


def test_a_salt_that_is_the_word_seed_becomes_the_seed_everywhere():
    cells = {"images": "wbc", "salt": "seed", "fraction": 0.7}
    recipe = {"seed": 0, "stages": [{"data": {"train": [cells], "val": [{"images": "wbc", "without": [cells]}]}}]}
    found = drawn(recipe, 3)
    assert found["stages"][0]["data"]["train"][0] == {**cells, "salt": 3}
    assert found["stages"][0]["data"]["val"][0]["without"] == [{**cells, "salt": 3}]
    assert recipe["stages"][0]["data"]["train"][0] is cells and cells["salt"] == "seed"
    assert drawn([{"images": "seed", "salt": "other"}], 3) == [{"images": "seed", "salt": "other"}]
