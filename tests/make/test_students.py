"""The ladder of students: measured as files, searched by budgets, chosen with a reason."""

import random
import tempfile

import numpy as np
import pytest
import torch

from marrow.core.models import resolve
from marrow.make.budgets import Budgets
from marrow.make.students import DEFAULT, LADDER, MeasuredStudent, fit, measured, named, reason


def student(params, fp32_ms, int8_ms):
    return MeasuredStudent({"backbone": f"net{params}"}, params, fp32_ms, int8_ms, 4 * params, params)


THREE = [student(900_000, 9.0, 3.0), student(300_000, 3.0, 2.0), student(100_000, 1.0, 1.2)]


def test_the_ladder_goes_down_and_holds_the_default():
    sizes = []
    for spec in LADDER:
        task = resolve(
            {"task": "classify", "backbone": {**spec, "img_size": 32}, "classes": 10}, {}, "student", meta=True
        )
        sizes.append(sum(p.numel() for p in task.parameters()))
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == len(sizes)
    assert DEFAULT in LADDER


@pytest.fixture(scope="module")
def two():
    """The largest and the smallest rung, as files."""
    return measured([LADDER[0], LADDER[-1]], img_size=32, classes=3, seconds=0.05)


def test_files_are_measured(two):
    big, small = two
    assert [s.spec for s in two] == [LADDER[0], LADDER[-1]]
    for one in two:
        # Four bytes or one a weight, and the graph; the norms went into the convolutions.
        assert 3.9 * one.params < one.fp32_bytes < 4.4 * one.params
        assert 0.98 * one.params < one.int8_bytes < 1.2 * one.params + 40_000
        assert one.fp32_ms > 0 and one.int8_ms > 0
    assert big.fp32_ms > 3 * small.fp32_ms and big.int8_ms > 3 * small.int8_ms


def test_nothing_is_left_behind_and_no_generator_moves(tmp_path):
    def state():
        generators = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
        return *generators, torch.get_num_threads()

    usual, before = tempfile.tempdir, state()
    tempfile.tempdir = str(tmp_path)
    try:
        measured(LADDER[-1:], img_size=32, classes=3, seconds=0.01)
    finally:
        tempfile.tempdir = usual
    assert state() == before
    assert not list(tmp_path.iterdir())


def test_with_budgets_only_part_of_the_ladder_is_measured(two):
    few = Budgets(size=2_000_000)
    found = measured(LADDER[-3:], img_size=32, classes=3, budgets=few, seconds=0.01)
    # int8 files of about 1.3, 0.7 and 0.3 MB: the middle one fits, then the larger one; the last is never built.
    assert [s.spec for s in found] == list(LADDER[-3:-1])
    assert fit(found, few).spec == LADDER[-3]
    none = Budgets(size=20_000)
    found = measured(LADDER[-2:], img_size=32, classes=3, budgets=none, seconds=0.01)
    assert fit(found, none).spec == LADDER[-1] and fit(found, none).inside(none) is None


def test_the_largest_inside_is_chosen_with_a_tenth_to_spare():
    assert fit(THREE, Budgets(latency=3.31)) is THREE[0]
    assert fit(THREE, Budgets(latency=3.2)) is THREE[1]
    assert fit(THREE, Budgets(latency=1.15)) is THREE[2]
    assert THREE[2].inside(Budgets(latency=1.15)) == "fp32"
    assert fit(THREE, Budgets(size=340_000)) is THREE[1]


def test_both_budgets_hold_for_one_file():
    # The smallest net's fp32 file is fast enough and its int8 file small enough, but neither is both.
    assert THREE[2].inside(Budgets(latency=1.15, size=200_000)) is None


def test_without_one_inside_the_smallest_is_chosen():
    assert fit(THREE, Budgets(latency=0.5)) is THREE[2]


def test_the_reason_says_what_was_measured():
    said = reason(THREE[1], THREE, Budgets(latency=2.5, size=1_000_000)).replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "the largest whose int8 file is inside 2.50 ms and 1.00 MB with a tenth to spare (int8 2.00 ms, 300 kB, fp32 "
        "3.00 ms, 1.20 MB; measured untrained, since weights do not change the time); net900000 is not (int8 3.00 ms, "
        "900 kB, fp32 9.00 ms, 3.60 MB)"
    )
    said = reason(THREE[2], THREE, Budgets(latency=0.5)).replace("\N{NO-BREAK SPACE}", " ")
    assert said == (
        "no student tried (3) is inside 0.50 ms with a tenth to spare; this is the smallest (fp32 1.00 ms, 400 kB, int8 "
        "1.20 ms, 100 kB)"
    )


def test_a_net_in_few_words():
    assert named(LADDER[0]) == "resnet18"
    assert named(DEFAULT) == "resnet10t, channels 48 to 384, stem 24"
