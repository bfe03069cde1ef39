"""Real processes: two commands in one folder, a rank that is killed, a clock that jumps. Each waits for Python to start.

Alone each takes half a minute of computing; the limits are for machines that do other things beside.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from .pieces import below, printed_command, reached, started, until, written
from .test_folder import ends_as
from .test_interrupts import job as job

WAIT = 800
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * WAIT)]


def both(words):
    """Exit codes and what was said by two commands that were started together."""
    processes = [started(words), started(words)]
    said = [process.communicate(timeout=WAIT)[1] for process in processes]
    return sorted(process.returncode for process in processes), said


def test_two_commands_at_once_into_one_folder(whole, tmp_path):
    codes, said = both(["run", written(tmp_path / "r.yaml"), "--out", tmp_path / "run"])
    # The second is told to wait, or came late enough to find everything done.
    assert codes in ([0, 2], [0, 0]), said
    assert codes == [0, 0] or sum("another run (pid" in err for err in said) == 1
    assert ends_as(whole, tmp_path / "run")


def test_two_makes_at_once_into_one_folder(job, tmp_path):
    """The second may come while the first measures what it needs for its plan, trains, or is done."""
    codes, said = both([*job, "--out", tmp_path / "run"])
    assert codes in ([0, 2], [0, 0]), said
    assert codes == [0, 0] or sum("another run (pid" in err for err in said) == 1
    assert (tmp_path / "run" / "report.json").is_file() and not (tmp_path / "run" / ".lock").exists()


def ranks(parent):
    """rank -> pid of the processes that a launcher started."""
    found = {}
    for pid in below(parent)[1:]:
        words = (Path("/proc") / str(pid) / "environ").read_bytes().split(b"\0")
        found |= {word.decode().removeprefix("RANK="): pid for word in words if word.startswith(b"RANK=")}
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the ranks in /proc")
@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_killed_rank_ends_the_others_in_time_and_resume_goes_on(rank, tmp_path):
    out, steps = tmp_path / "run", 300
    log = out / "logs" / "first.csv"
    words = ["run", written(tmp_path / "r.yaml", steps=steps), "stages.1.steps=20", "--out", out, "--devices", 2]
    process = started(words)
    until(lambda: reached(log) >= 20, process, WAIT)
    process.send_signal(signal.SIGTERM)  # so that a checkpoint lies there
    err = process.communicate(timeout=WAIT)[1]
    assert process.returncode == 130 and (out / "checkpoints" / "first.pt").is_file(), err
    at = reached(log)

    process = started([*words, "--resume"])
    until(lambda: reached(log) >= at + 20, process, WAIT)
    assert process.poll() is None, process.communicate()[1]
    os.kill(ranks(process.pid)[rank], signal.SIGKILL)
    began = time.monotonic()
    err = process.communicate(timeout=WAIT)[1]
    # The launcher gives the others half a minute.
    assert time.monotonic() - began < WAIT / 4 and process.returncode == 2, err
    assert f"process {int(rank) + 1} of 2 was ended by SIGKILL" in err and "bug" not in err
    again = started(printed_command(err))
    err = again.communicate(timeout=WAIT)[1]
    assert again.returncode == 0, err
    assert reached(log) == steps and reached(out / "logs" / "second.csv") == 20


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the processes in /proc")
@pytest.mark.parametrize("first", ["the ranks", "the launcher"])
def test_sigterm_to_each_process_of_two_ranks_with_workers(first, tmp_path):
    """As a batch system ends a job: everybody gets it, one by one, and a rank gets it from its launcher once more."""
    out = tmp_path / "run"
    process = started(["run", written(tmp_path / "r.yaml", steps=3000), "stages.0.data.workers=1", "--out", out,
                       "--devices", 2])  # fmt: skip
    until(lambda: reached(out / "logs" / "first.csv") >= 20, process, WAIT)
    pids = below(process.pid)
    for pid in pids if first == "the launcher" else reversed(pids):
        with suppress(ProcessLookupError):  # it may have ended by then
            os.kill(pid, signal.SIGTERM)
    err = process.communicate(timeout=WAIT)[1]
    assert process.returncode == 130 and "Trace" not in err, err
    assert (out / "checkpoints" / "first.pt").is_file()


@pytest.mark.skipif(not shutil.which("faketime"), reason="needs the program faketime")
def test_a_clock_that_jumps_back_a_year_between_stop_and_resume(stopped, whole):
    words = ["faketime", "-f", "-365d", sys.executable, "-m", "marrow.cli", "run", stopped / "recipe.yaml",
             "--out", stopped, "--resume"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT)
    assert done.returncode == 0, done.stderr
    assert ends_as(whole, stopped)
