"""Budgets: what the options say, which file is chosen by them, and what is said of a miss."""

import pytest

from marrow.core.errors import BudgetMissed, MarrowError
from marrow.make.budgets import Budgets, Candidate, accepting, choose, fitting, judged


@pytest.mark.parametrize("text, milliseconds", [("15ms", 15.0), ("0.5 s", 500.0), ("800us", 0.8), ("800µs", 0.8),
                                                (" 1.5MS ", 1.5), ("1e-2s", 10.0)])  # fmt: skip
def test_latencies_are_read_in_milliseconds(text, milliseconds):
    assert Budgets.read(latency=text).latency == pytest.approx(milliseconds)


@pytest.mark.parametrize("text, size", [("10MB", 10_000_000), ("500 kB", 500_000), ("500KB", 500_000),
                                        ("2MiB", 2_097_152), ("800KiB", 819_200), ("0.5gb", 500_000_000),
                                        ("20000B", 20_000)])  # fmt: skip
def test_sizes_are_read_in_bytes(text, size):
    assert Budgets.read(size=text).size == size


def test_nothing_given_is_no_budget():
    budgets = Budgets.read()
    assert budgets == Budgets(None, None, None, None)
    assert judged(budgets, latency_ms=1.0, bytes=1, drop=None, minutes=1.0) == []


@pytest.mark.parametrize("given, sentence", [
    ({"latency": "15"}, "--max-latency: '15' has no unit; write 15ms or 0.015s"),
    ({"latency": "-15ms"}, "--max-latency: '-15ms' is not above 0; write 15ms or 0.015s"),
    ({"latency": "0ms"}, "--max-latency: '0ms' is not above 0; write 15ms or 0.015s"),
    ({"latency": "nanms"}, "--max-latency: 'nanms' is not a finite number; write 15ms or 0.015s"),
    ({"latency": "1e999s"}, "--max-latency: '1e999s' is not a finite number; write 15ms or 0.015s"),
    ({"latency": "15 min"}, "--max-latency: '15 min' has the unknown unit 'min'; write 15ms or 0.015s"),
    ({"latency": "fast"}, "--max-latency: 'fast' is not a number with a unit; write 15ms or 0.015s"),
    ({"latency": ""}, "--max-latency: '' is not a number with a unit; write 15ms or 0.015s"),
    ({"latency": "1us"}, "--max-latency: '1us' is less than a runtime takes to answer at all (0.01ms)"),
    ({"size": "10"}, "--max-size: '10' has no unit; write 10MB or 800KiB"),
    ({"size": "1,5MB"}, "--max-size: '1,5MB' is not a number with a unit; write 10MB or 800KiB"),
    ({"size": "10ms"}, "--max-size: '10ms' has the unknown unit 'ms'; write 10MB or 800KiB"),
    ({"size": "10Mb"}, "--max-size: 'Mb' in '10Mb' reads as bits; write MB"),
    ({"size": "9kB"}, "--max-size: '9kB' is less than the graph of a small net takes without weights (10kB)"),
    ({"drop": -1.0}, "--max-drop: -1 is outside 0 to 100 (points below the teacher); write 1.0"),
    ({"drop": 101}, "--max-drop: 101 is outside 0 to 100 (points below the teacher); write 1.0"),
    ({"drop": float("nan")}, "--max-drop: nan is outside 0 to 100 (points below the teacher); write 1.0"),
    ({"minutes": 0}, "--minutes: 0 is not a number of minutes above 0; write 30"),
    ({"minutes": float("nan")}, "--minutes: nan is not a number of minutes above 0; write 30"),
    ({"minutes": float("inf")}, "--minutes: inf is not a number of minutes above 0; write 30"),
])  # fmt: skip
def test_what_is_no_budget_is_refused_in_a_sentence(given, sentence):
    with pytest.raises(MarrowError) as caught:
        Budgets.read(**given)
    assert str(caught.value) == sentence


def test_all_problems_come_at_once():
    with pytest.raises(MarrowError) as caught:
        Budgets.read("15", "10Mb", 200.0, -3.0)
    first, *others = str(caught.value).splitlines()
    assert first == "4 problems in the budgets"
    assert [line.strip().partition(":")[0] for line in others] == ["--max-latency", "--max-size", "--max-drop",
                                                                   "--minutes"]  # fmt: skip


FP32 = Candidate("fp32", 20.0, 8_000_000, 0.5)
INT8 = Candidate("int8", 12.0, 2_000_000, 1.5)


def test_the_fastest_inside_all_budgets_is_chosen():
    assert choose(Budgets(), [FP32, INT8]) == INT8
    assert fitting(Budgets(drop=1.0), [FP32, INT8]) == [FP32]
    assert choose(Budgets(drop=1.0), [FP32, INT8]) == FP32
    assert fitting(Budgets(latency=20.0, size=8_000_000, drop=1.5), [FP32, INT8]) == [FP32, INT8]


def test_of_equally_fast_files_the_smallest_is_chosen():
    assert choose(Budgets(), [FP32, Candidate("int8", 20.9, 2_000_000, 0.5)]).name == "int8"
    assert choose(Budgets(), [FP32, Candidate("int8", 21.1, 2_000_000, 0.5)]).name == "fp32"


def test_when_nothing_fits_the_smallest_worst_excess_is_nearest():
    # fp32 takes twice the latency; int8 a fifth more, and half a point (half of the budget) more.
    budgets = Budgets(latency=10.0, drop=1.0)
    assert fitting(budgets, [FP32, INT8]) == []
    assert choose(budgets, [FP32, INT8]) == INT8
    assert choose(Budgets(latency=19.0, drop=0.1), [FP32, INT8]) == FP32  # 0.4 points over against 1.4


def test_a_drop_of_zero_can_be_asked_for():
    assert choose(Budgets(drop=0.0), [FP32, INT8]) == FP32
    assert fitting(Budgets(drop=0.0), [Candidate("int8", 1.0, 1, -0.2)])[0].name == "int8"


def test_an_unknown_drop_is_inside_no_budget_and_leaves_the_choice_to_the_others():
    unknown = [Candidate("fp32", 20.0, 8_000_000, None), Candidate("int8", 12.0, 2_000_000, None)]
    assert fitting(Budgets(drop=1.0), unknown) == []
    assert choose(Budgets(drop=1.0, size=5_000_000), unknown).name == "int8"
    row = judged(Budgets(drop=1.0), latency_ms=1.0, bytes=1, drop=None, minutes=1.0)[0]
    assert row == {"what": "drop", "limit": "1 point", "value": "cannot be measured", "met": False}


def test_the_judgement_in_print():
    budgets = Budgets.read("15ms", "2MiB", 1.0, 3.0)
    rows = judged(budgets, latency_ms=18.412, bytes=1_234_567, drop=1.04, minutes=2.5)
    assert rows == [
        {"what": "latency", "limit": "15 ms", "value": "18.4 ms", "met": False},
        {"what": "size", "limit": "2.097152 MB", "value": "1.23 MB", "met": True},
        {"what": "drop", "limit": "1 point", "value": "1.04 points", "met": False},
        {"what": "minutes", "limit": "3 min", "value": "2.5 min", "met": True},
    ]


def test_a_miss_by_little_is_not_printed_as_its_limit():
    row = judged(Budgets(latency=15.0), latency_ms=15.0004, bytes=1, drop=0.0, minutes=1.0)[0]
    assert row["value"] == "15.0004 ms" and not row["met"]


def test_the_noise_of_a_subtraction_is_no_miss():
    budgets, lost = Budgets(drop=1.0), 100 * (0.98 - 0.97)
    assert lost > 1.0
    assert judged(budgets, latency_ms=1.0, bytes=1, drop=lost, minutes=1.0)[0]["met"]
    assert fitting(budgets, [Candidate("int8", 1.0, 1, lost)])


@pytest.mark.parametrize("candidate, drop", [(Candidate("int8", 18.4, 11_234_567, 2.04), 1.0),
                                             (Candidate("int8", 0.0412, 999_999, 1.1), 2.31),
                                             (Candidate("fp32", 1234.5, 10_000_001, 1.0), 1.0000001)])  # fmt: skip
def test_the_options_that_accept_a_candidate_do_accept_it(candidate, drop):
    words = accepting(Budgets(0.02, 100_000, 0.5, 10.0), candidate, drop=drop).split()
    given = dict(zip(words[::2], words[1::2]))
    again = Budgets.read(given["--max-latency"], given["--max-size"], float(given["--max-drop"]))
    assert fitting(again, [candidate])
    assert all(r["met"] for r in judged(again, latency_ms=1.02 * candidate.latency_ms, bytes=candidate.bytes, drop=drop,
                                        minutes=1.0))  # fmt: skip
    assert again.latency < 1.15 * candidate.latency_ms and again.size < 1.11 * candidate.bytes
    assert again.drop < max(candidate.drop, drop) + 0.11


def test_what_was_met_is_left_as_it_was():
    assert accepting(Budgets(15.0, 10_000_000, 1.0), Candidate("int8", 18.4, 9_000_000, 2.04)) == (
        "--max-latency 19ms --max-size 10MB --max-drop 2.1"
    )
    assert accepting(Budgets(size=10_000), Candidate("int8", 18.4, 9_100_000, 2.04)) == "--max-size 9.1MB"


def test_a_drop_that_cannot_be_measured_is_left_out_of_what_accepts():
    assert accepting(Budgets(15.0, None, 1.0), Candidate("int8", 18.4, 9_000_000, None)) == "--max-latency 19ms"


def test_a_missed_budget_is_an_error_of_its_own():
    assert issubclass(BudgetMissed, MarrowError)
