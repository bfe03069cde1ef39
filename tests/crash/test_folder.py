"""What a killed process leaves in its folder is taken up, put right or named; two processes never share one."""

import os
import shutil
import subprocess
import sys

import pytest

from marrow.core.artifact import Artifact
from marrow.core.errors import MarrowError
from marrow.run import run

from .pieces import STEPS, recipe

HOLD = """
import fcntl, os, sys
file = open(sys.argv[1], "w")
fcntl.lockf(file, fcntl.LOCK_EX)
print(os.getpid(), file=file, flush=True)
print("held", flush=True)
sys.stdin.read()
"""


def ends_as(whole, out):
    """The same files with the same bytes."""
    files = {p.relative_to(whole): p for p in whole.rglob("*") if p.is_file()}
    assert {p.relative_to(out) for p in out.rglob("*") if p.is_file()} == set(files)
    assert [str(name) for name, file in files.items() if file.read_bytes() != (out / name).read_bytes()] == []
    return True


def resumed(out, **changes):
    return run(recipe(**changes), out, resume=True, quiet=True)


def test_a_stopped_run_resumed_in_a_copy_of_its_folder_ends_as_one_left_alone(stopped, whole):
    resumed(stopped)
    assert ends_as(whole, stopped) and not (stopped / "checkpoints").exists()


def test_a_training_killed_before_its_first_checkpoint_does_not_log_twice(stopped, whole):
    shutil.rmtree(stopped / "checkpoints")
    assert len((stopped / "logs" / "second.csv").read_text().splitlines()) > 1
    resumed(stopped)
    assert ends_as(whole, stopped)


def test_what_was_being_written_is_removed(stopped, whole):
    for name in (".second.123.tmp", ".first.123.old", "timed/.teacher.123.tmp"):
        (stopped / name).mkdir(parents=True)
        (stopped / name / "weights.safetensors").write_bytes(b"half")
    for name in (".plan.json.tmp", "checkpoints/.second.pt.tmp"):
        (stopped / name).write_bytes(b"half")
    resumed(stopped)
    assert ends_as(whole, stopped)


def test_a_stage_killed_between_its_artifact_and_the_end_of_its_checkpoint_is_done(whole, left, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    shutil.copytree(left / "checkpoints", out / "checkpoints")
    resumed(out)
    assert ends_as(whole, out) and not (out / "checkpoints").exists()


def test_an_artifact_lost_while_it_was_replaced_is_made_again(whole, tmp_path):
    out = shutil.copytree(whole, tmp_path / "run")
    (out / "second").rename(out / ".second.123.old")
    resumed(out)
    assert ends_as(whole, out)


def test_a_folder_is_one_process_at_a_time_and_free_when_that_is_killed(stopped, whole):
    lock = stopped / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(MarrowError, match=rf"another run \(pid {holder.pid}\) is working in"):
        resumed(stopped)
    holder.kill()
    holder.communicate()
    lock.write_text(str(os.getppid()))  # the number of the dead one, which a live process has by now
    resumed(stopped)
    assert ends_as(whole, stopped)


@pytest.mark.parametrize("damage", ["cut off", "garbage", "a wrong byte", "empty"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(damage, stopped, whole):
    file = stopped / "checkpoints" / "second.pt"
    content = bytearray(file.read_bytes())
    if damage == "a wrong byte":
        content[len(content) // 2] ^= 1
    file.write_bytes(
        {"cut off": content[: len(content) // 2], "garbage": os.urandom(5000), "empty": b""}.get(damage, content)
    )
    with pytest.raises(
        MarrowError, match=r"second\.pt: the checkpoint is damaged \(.*Delete it to begin this training again"
    ):
        resumed(stopped)
    file.unlink()
    resumed(stopped)
    assert ends_as(whole, stopped)


def test_a_damaged_finished_stage_is_named_with_what_to_do(stopped, whole):
    weights = stopped / "first" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    with pytest.raises(MarrowError, match=r"first: weights\.safetensors has .*Delete that folder to make it again"):
        resumed(stopped)


def test_nothing_depends_on_the_order_of_the_clock(stopped, whole):
    for i, file in enumerate(sorted(stopped.rglob("*"))):
        os.utime(file, (0, 0) if i % 2 else (2**33, 2**33))  # 1970 and 2242
    resumed(stopped)
    assert ends_as(whole, stopped)


def test_another_number_of_steps_is_refused_with_both_numbers(stopped):
    with pytest.raises(MarrowError, match=rf"holds another run\n  stages\[0\]\.steps: {STEPS} there, 7 now"):
        resumed(stopped, steps=7)
    assert Artifact.open(stopped / "first")
