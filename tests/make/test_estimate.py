"""What a run will take, found out in small: every stage tried once, nothing left behind, and shorter runs for a budget."""

import random
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.recipe import Stage
from marrow.make.estimate import Estimate, as_text, estimate, rescaled, scaled
from marrow.make.trial import Found
from marrow.run import run

TRAIN = {"images": "digits", "split": "train", "fraction": 0.2}
VAL = {"images": "digits", "split": "val"}
NET = {"backbone": "resnet10t", "channels": [16, 16, 32, 32], "stem_width": 16, "img_size": 32}
TASK = {"task": "classify", "backbone": NET, "classes": 10}
OPTIM = {"adamw": {"lr": 2e-3}}


def training(stem, name, roles, steps, **more):
    return {"teach": stem, "name": name, **roles, "data": {"train": [TRAIN], "val": [VAL], "batch": 16}, "steps": steps,
            "args": {"crop": [0.7, 1.0]}, "optim": OPTIM, "evaluate_percent": 50, **more}  # fmt: skip


def chain(steps=8):
    """As `make` writes it, in small."""
    student = {"student": TASK, "teacher": {"stage": "teacher"}}
    recovered = {"student": {"stage": "cut"}, "teacher": {"stage": "teacher"}}
    return {"seed": 0, "stages": [
        training("supervised", "teacher", {"task": TASK}, steps),
        training("supervised", "baseline", {"task": TASK}, 2 * steps),
        training("ssld", "student", student, steps),
        {"shrink": "prune", "name": "cut", "model": {"stage": "student"}, "args": {"ratio": 0.5, "round_to": 8}},
        training("ssld", "pruned", recovered, steps),
        {"ship": "onnx", "name": "fp32", "model": {"stage": "pruned"}, "data": {"parity": [VAL]}},
        {"ship": "int8", "name": "int8", "model": {"stage": "pruned"}, "data": {"calibration": [TRAIN], "parity": [VAL]}},
    ]}  # fmt: skip


def generators():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """The estimate of the chain, its recipe afterwards, the generators before and after it, and its place for files."""
    given, usual, before = chain(), tempfile.tempdir, generators()
    tempfile.tempdir = str(tmp_path_factory.mktemp("scratch"))
    try:
        made = estimate(given, device="cpu", steps=5, seconds=1.0)
        return made, given, before, generators(), Path(tempfile.tempdir)
    finally:
        tempfile.tempdir = usual


def test_every_stage_has_a_range_and_all_is_their_sum(found):
    minutes = found[0].minutes
    assert list(minutes) == ["teacher", "baseline", "student", "cut", "pruned", "fp32", "int8", "report", "all"]
    assert all(0 < low < high for low, high in minutes.values())
    for side in (0, 1):
        assert minutes["all"][side] == pytest.approx(sum(v[side] for k, v in minutes.items() if k != "all"))


def test_equal_trainings_are_tried_once_and_counted_by_their_own_steps(found):
    (short, short_low, short_high), (long, low, high) = (found[0].training[k] for k in ("teacher", "baseline"))
    assert (short, long) == (8, 16)
    assert low == pytest.approx(2 * short_low) and high == pytest.approx(2 * short_high)


def test_nothing_is_left_behind_and_nothing_changed(found):
    _, given, before, after, scratch = found
    assert given == chain()
    assert before == after
    assert not list(scratch.iterdir())


def test_the_run_takes_what_was_said(tmp_path):
    """The times are printed only: they are the machine's."""
    file = {"ship": "onnx", "name": "fp32", "model": {"stage": "teacher"}, "data": {"parity": [VAL]}}
    recipe = {"seed": 0, "stages": [training("supervised", "teacher", {"task": TASK}, 30), file]}
    found = estimate(recipe, device="cpu", seconds=1.0)
    began, took = time.monotonic(), {}

    def after(stage, artifact, history):
        took[stage.name] = time.monotonic() - began - sum(took.values())

    run(recipe, tmp_path / "run", device="cpu", quiet=True, after=after)
    for name, seconds in took.items():
        low, high = found.minutes[name]
        print(f"{name}: {seconds:.1f} s, estimated {60 * low:.1f} to {60 * high:.1f} s")
    taken = sum(f.stat().st_size for f in (tmp_path / "run").rglob("*") if f.is_file())
    weights = (tmp_path / "run" / "teacher" / "weights.safetensors").stat().st_size
    # The file once more, the teacher's file for its time, and twice a checkpoint: weights and two moments of each.
    assert found.disk == pytest.approx(taken + 2 * weights + 2 * 3 * weights, rel=0.1)
    assert found.memory > 50e6


def test_a_model_that_cannot_be_exported_is_found_out_early():
    stage = {"ship": "onnx", "model": NET, "data": {"parity": [VAL]}}
    with pytest.raises(MarrowError, match="a task is exported, this is a TimmBackbone"):
        estimate({"seed": 0, "stages": [stage]}, device="cpu")


def test_a_method_with_a_loop_of_its_own_cannot_be_estimated():
    select = {"teach": "ssld_select", "teacher": TASK, "data": {"train": [TRAIN], "pool": [TRAIN], "batch": 16}}
    with pytest.raises(MarrowError, match="ssld_select has a loop of its own"):
        estimate({"seed": 0, "stages": [select]}, device="cpu")


def made_up(steps=(1000, 500, 40), each=0.06, once=60.0):
    """Three trainings of `each` seconds a step and a minute of everything else."""
    training = {f"t{i}": (n, 0.5 * n * each, n * each) for i, n in enumerate(steps)}
    minutes = {name: (low / 60, high / 60) for name, (_, low, high) in training.items()}
    minutes["report"] = (once / 120, once / 60)
    minutes["all"] = tuple(sum(v[side] for v in minutes.values()) for side in (0, 1))
    recipe = {"seed": 0, "stages": [training_stage(name, n) for name, (n, _, _) in training.items()]}
    return recipe, Estimate(minutes, 2**30, 180_000_000, training)


def training_stage(name, steps):
    return {"teach": "supervised", "name": name, "task": TASK, "data": {"train": [TRAIN]}, "steps": steps}


def steps_of(recipe):
    return [s["steps"] for s in recipe["stages"]]


def test_a_training_that_may_stop_early_takes_less_at_least():
    given = {"teach": "supervised", "name": "a", "steps": 1000, "evaluate_percent": 10}
    found = Found(None, once=10.0, file=0, total=1000, each=(0.1, 0.2), evaluation=1.0)
    high = (1000 * 0.2 + 1.3 * (10 + 11)) / 60
    (low, most), training = found.lasts(Stage(0, given))
    assert (low, most) == (pytest.approx((1000 * 0.1 + 0.8 * (10 + 11)) / 60), pytest.approx(high))
    (low, most), training = found.lasts(Stage(0, {**given, "patience": 4}))
    # The first of ten measurements stays the best: four more, and the one for the artifact.
    assert (low, most) == (pytest.approx((500 * 0.1 + 0.8 * (10 + 6)) / 60), pytest.approx(high))
    assert training == (1000, pytest.approx(50.0), pytest.approx(200.0))


def test_a_run_that_fits_is_left_as_it_is():
    recipe, found = made_up()
    assert found.minutes["all"][1] == pytest.approx(2.54)
    assert scaled(recipe, found, 3.0) == recipe


def test_all_trainings_are_cut_by_one_factor():
    recipe, found = made_up()
    cut = scaled(recipe, found, 2.0)
    long, middle, short = steps_of(cut)
    assert long == pytest.approx(2 * middle, abs=1) and short == 40  # it was below the least before
    assert 1.99 < rescaled(found, dict(zip(("t0", "t1", "t2"), steps_of(cut)))).minutes["all"][1] <= 2.0
    assert all(isinstance(n, int) for n in steps_of(cut)) and steps_of(recipe) == [1000, 500, 40]


def test_no_training_is_cut_below_fifty_steps():
    recipe, found = made_up()
    assert steps_of(scaled(recipe, found, 1.16)) == [pytest.approx(70, abs=1), 50, 40]
    assert scaled(recipe, found, 1.13) is None  # 140 steps of 0.06 s and a minute are 1.14 minutes


def test_an_estimate_follows_the_steps():
    _, found = made_up()
    half = rescaled(found, {"t0": 500})
    assert half.training["t0"] == (500, pytest.approx(15.0), pytest.approx(30.0))
    assert half.minutes["t0"] == (pytest.approx(0.25), pytest.approx(0.5)) and half.minutes["t1"] == found.minutes["t1"]
    assert half.minutes["all"][1] == pytest.approx(2.04)


def test_the_text_has_a_line_a_stage_and_the_sum():
    text = as_text(made_up()[1]).replace("\N{NO-BREAK SPACE}", " ")
    assert text.splitlines() == [
        "stage   takes about",
        "t0      0.5 to 1 minutes",
        "t1      15 to 30 seconds",
        "t2      1 to 3 seconds",
        "report  0.5 to 1 minutes",
        "",
        "In all about 1.3 to 2.6 minutes, 1.0 GiB of memory, 180 MB of disk.",
    ]
