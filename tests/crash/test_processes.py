"""Real processes: two commands in one folder, a rank that is killed, a clock that jumps. Each waits for Python to start."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .pieces import printed_command, reached, started, written
from .test_folder import ends_as

pytestmark = pytest.mark.slow


def test_two_commands_at_once_into_one_folder(whole, tmp_path):
    words = ["run", written(tmp_path / "r.yaml"), "--out", tmp_path / "run"]
    both = [started(words), started(words)]
    said = [process.communicate(timeout=250)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    # The second is told to wait, or came late enough to find everything done.
    assert codes in ([0, 2], [0, 0]), said
    assert codes == [0, 0] or sum("another run (pid" in err for err in said) == 1
    assert ends_as(whole, tmp_path / "run")


def test_two_makes_at_once_into_one_folder(tmp_path):
    words = [
        "make",
        "--student",
        "resnet10t",
        "--epochs",
        "0.2",
        "--skip",
        "baseline,prune,int8",
        "--out",
        tmp_path / "run",
    ]
    both = [started(words), started(words)]
    said = [process.communicate(timeout=280)[1] for process in both]
    assert sorted(process.returncode for process in both) in ([0, 2], [0, 0]), said
    assert (tmp_path / "run" / "report.json").is_file() and not (tmp_path / "run" / ".lock").exists()


def ranks(parent):
    """rank -> pid of the processes that a launcher started."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "environ").read_bytes().split(b"\0")
                above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            if above == parent:
                found |= {
                    word.decode().removeprefix("RANK="): int(folder.name) for word in words if word.startswith(b"RANK=")
                }
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_ends_the_others_in_time_and_resume_goes_on(rank, tmp_path):
    out = tmp_path / "run"
    words = ["run", written(tmp_path / "r.yaml", steps=800), "--out", out, "--devices", 2]
    process = started(words)
    while reached(out / "logs" / "first.csv") < 20 and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)  # so that a checkpoint lies there
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and (out / "checkpoints" / "first.pt").is_file(), err
    at = reached(out / "logs" / "first.csv")

    process = started([*words, "--resume"])
    while reached(out / "logs" / "first.csv") < at + 20 and process.poll() is None:
        time.sleep(0.05)
    os.kill(ranks(process.pid)[rank], signal.SIGKILL)
    began = time.monotonic()
    err = process.communicate(timeout=60)[1]
    assert time.monotonic() - began < 45 and process.returncode == 2, err
    assert f"process {int(rank) + 1} of 2 was ended by SIGKILL" in err and "bug" not in err
    again = started(printed_command(err))
    assert again.communicate(timeout=250) and again.returncode == 0
    assert reached(out / "logs" / "second.csv") == 800


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs the program faketime")
def test_a_clock_that_jumps_back_a_year_between_stop_and_resume(stopped, whole):
    words = [
        "faketime",
        "-f",
        "-365d",
        sys.executable,
        "-m",
        "marrow.cli",
        "run",
        stopped / "recipe.yaml",
        "--out",
        stopped,
        "--resume",
    ]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert ends_as(whole, stopped)
