"""Runs that are ended in the middle, and commands with what they said."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from marrow.cli import main
from marrow.core.recipe import Recipe

NARROW = {"backbone": "resnet10t", "img_size": 32, "channels": [8, 8, 16, 16], "stem_width": 8}
DIGITS = {"images": "digits", "split": "train", "per_class": 20}
STEPS = 60  # of each of two trainings


def recipe(train=DIGITS, classes=10, steps=STEPS):
    """Two trainings, the second under what the first made."""
    task = {"task": "classify", "backbone": NARROW, "classes": classes}
    common = {"data": {"train": [train], "batch": 8}, "optim": {"sgd": {"lr": 0.02}}, "steps": steps}
    first = {"teach": "supervised", "name": "first", "task": task, "args": {"flip": False}, **common}
    second = {"teach": "supervised", "name": "second", "task": {"stage": "first"}, "args": {"flip": False}, **common}
    return {"seed": 0, "stages": [first, second]}


def taught(first, cached_views=2):
    """A training under the teacher in an artifact's folder, whose answers are stored."""
    stage = {"teach": "ssld", "name": "taught", "student": {"task": "classify", "backbone": NARROW, "classes": 10},
             "teacher": {"artifact": str(first)}, "args": {"crop": None, "flip": False}, "steps": 60,
             "cached_views": cached_views, "optim": {"sgd": {"lr": 0.02}},
             "data": {"train": [{"images": "digits", "split": "train"}], "batch": 32}}  # fmt: skip
    return {"seed": 0, "stages": [stage]}


def written(file, **changes):
    file.write_text(Recipe.from_dict(recipe(**changes)).to_yaml(), encoding="utf-8")
    return file


def reached(log):
    """The last step in a CSV."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 and lines[-1].count(",") == 2 else 0


@contextmanager
def meanwhile(condition, act, seconds=60):
    """In another thread: as soon as the condition holds, act, once."""
    over = threading.Event()

    def watch():
        until = time.monotonic() + seconds
        while not over.is_set() and time.monotonic() < until:
            if condition():
                act()
                return
            time.sleep(0.001)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def stop(how=signal.SIGTERM):
    os.kill(os.getpid(), how)


def command(words, capsys):
    """Exit code, standard error."""
    try:
        main([str(word) for word in words])
    except SystemExit as ended:
        return ended.code or 0, capsys.readouterr().err
    return 0, capsys.readouterr().err


def printed_command(err):
    """The words after "go on with: marrow" in the last line."""
    words = shlex.split(re.split("[Gg]o on with: ", err.strip().splitlines()[-1])[-1])
    assert words[0] == "marrow", err
    return words[1:]


def below(pid):
    """The pids of a process and of all that it started, itself first."""
    children = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                above = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
            children.setdefault(above, []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def until(condition, process, seconds=250):
    """Wait for a condition on what another process does; it may end before."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def started(words, new_group=False, **env):
    """The command as a process of its own; with `new_group` signals can be sent to it and its children alone."""
    return subprocess.Popen([sys.executable, "-m", "marrow.cli", *map(str, words)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, start_new_session=new_group,
                            env={**os.environ, **env})  # fmt: skip
