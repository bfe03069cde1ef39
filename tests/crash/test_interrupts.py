"""Ctrl-C and SIGTERM, wherever they arrive: exit code 130, and the printed command goes on to the same end."""

import os
import signal
import time
from pathlib import Path

import pytest

import marrow

from ..make.pieces import COLOURS, photos
from .pieces import NARROW, below, command, meanwhile, printed_command, reached, started, stop, until, written


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_stopped_in_a_training_goes_on_as_printed(how, whole, tmp_path, capsys):
    out = tmp_path / "a folder" / "run"
    with meanwhile(lambda: reached(out / "logs" / "first.csv") >= 10, lambda: stop(how)):
        code, err = command(["run", written(tmp_path / "a recipe.yaml"), "--out", out], capsys)
    assert (
        code == 130 and err.splitlines()[-1].startswith("interrupted; go on with: marrow run '") and "Trace" not in err
    )
    assert (out / "checkpoints" / "first.pt").is_file() and not (out / ".lock").exists()
    assert command(printed_command(err), capsys)[0] == 0
    for name in ("first", "second"):
        weights = (out / name / "weights.safetensors").read_bytes()
        assert weights == (whole / name / "weights.safetensors").read_bytes()


@pytest.mark.parametrize("how", ["at once", "workers first", "workers alone"])
def test_sigterm_to_all_processes_of_a_run_with_workers(how, tmp_path):
    """As a service manager, a container or a batch system sends it: the step under way still needs its workers."""
    out = tmp_path / "run"
    words = ["run", written(tmp_path / "r.yaml", steps=3000), "stages.0.data.workers=2", "--out", out]
    run = started(words, new_group=True)
    log = out / "logs" / "first.csv"
    until(lambda: reached(log) >= 10, run)
    workers = below(run.pid)[1:]
    assert len(workers) == 2
    if how == "at once":
        os.killpg(run.pid, signal.SIGTERM)
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    at = reached(log)
    until(lambda: reached(log) >= at + 20, run)  # far more than what is read ahead
    if how != "at once":
        assert run.poll() is None
        run.send_signal(signal.SIGINT if how == "workers alone" else signal.SIGTERM)
    _, err = run.communicate(timeout=250)
    assert run.returncode == 130 and "go on with: marrow run" in err and "Trace" not in err
    assert (out / "checkpoints" / "first.pt").is_file()
    assert not any((Path("/proc") / str(pid)).exists() for pid in workers)


def test_a_killed_worker_is_told_from_a_bug(tmp_path):
    """As the system does it where memory is short."""
    out = tmp_path / "run"
    words = ["run", written(tmp_path / "r.yaml", steps=3000), "stages.0.data.workers=2", "--out", out]
    run = started(words)
    until(lambda: reached(out / "logs" / "first.csv") >= 10, run)
    os.kill(below(run.pid)[1], signal.SIGKILL)
    _, err = run.communicate(timeout=250)
    assert run.returncode == 2 and "this is a bug" not in err
    assert "error: data.workers: a process that reads images was ended from outside, perhaps for want of memory" in err
    assert printed_command(err)[0] == "run"


def test_sigterm_between_two_trainings(whole, tmp_path, capsys):
    out = tmp_path / "run"
    with meanwhile(lambda: any(out.glob(".first.*.tmp")), stop):
        code, err = command(["run", written(tmp_path / "r.yaml"), "--out", out], capsys)
    assert code == 130 and "go on with: marrow run" in err
    assert command(printed_command(err), capsys)[0] == 0
    assert (out / "second" / "weights.safetensors").read_bytes() == (
        whole / "second" / "weights.safetensors"
    ).read_bytes()


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Words of a `make` that lasts seconds: a teacher that needs no training, and a student."""
    root = tmp_path_factory.mktemp("job")
    net = marrow.backbone(NARROW["backbone"], **{k: v for k, v in NARROW.items() if k != "backbone"})
    marrow.save(root / "net", net)
    sure = marrow.task("classify", backbone=marrow.load(root / "net"), classes=len(COLOURS))
    sure.head.weight.data.mul_(100.0)
    sure.labels = sorted(COLOURS)
    marrow.save(root / "teacher", sure)
    return ["make", "--data", photos(root / "photos", each=12), "--teacher", root / "teacher", "--student", root / "net",
            "--img-size", 32, "--batch", 8, "--epochs", 12, "--skip", "baseline,prune,int8"]  # fmt: skip


def test_a_make_stopped_everywhere_goes_on_as_printed(job, tmp_path, capsys):
    """During the estimate, in a training, twice at once in a training, while the result is measured."""
    began, out = time.monotonic(), tmp_path / "run"
    log, words = out / "logs" / "student.csv", [*job, "--out", out]
    with meanwhile(lambda: time.monotonic() > began + 1, stop):
        code, err = command(words, capsys)
    assert code == 130 and not out.exists()

    with meanwhile(lambda: reached(log) >= 10, lambda: stop(signal.SIGINT)):
        code, err = command(printed_command(err), capsys)
    assert code == 130 and (out / "checkpoints" / "student.pt").is_file()
    assert err.splitlines()[-1].startswith("interrupted; go on with: marrow make ")

    def twice():
        stop(signal.SIGINT)
        stop(signal.SIGINT)

    with meanwhile(lambda: reached(log) >= 20, twice):
        code, err = command(printed_command(err), capsys)
    assert code == 130 and (out / "checkpoints" / "student.pt").is_file()

    with meanwhile(lambda: (out / "fp32" / "artifact.json").is_file(), stop):
        code, err = command(printed_command(err), capsys)
    assert code == 130 and not (out / "report.json").exists()
    assert command(printed_command(err), capsys)[0] == 0

    assert command([*job, "--out", tmp_path / "whole"], capsys)[0] == 0
    for name in ("student/weights.safetensors", "fp32/model.onnx", "model.onnx", "logs/student.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    left = {p.relative_to(out) for p in out.rglob("*")}
    assert left == {p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*")}


def test_the_old_handlers_are_back(whole, tmp_path, capsys):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    command(["run", written(tmp_path / "r.yaml"), "--out", whole], capsys)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
