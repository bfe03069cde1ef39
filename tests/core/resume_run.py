"""Trains in processes that are ended with SIGKILL at random steps, and once without: `resume_run.py FOLDER`.

Leaves the last checkpoints (`whole.pt`, `killed.pt`), the CSV files and the products' weights in a folder a case.
"""

import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from engine_pieces import Duel, Pictures, SmallNet, Sort, Supervise

from marrow.core.engine import Engine
from marrow.core.errors import Interrupted
from marrow.core.loader import Data
from marrow.core.loggers import CsvLogger
from marrow.core.settings import Optim, Settings

STEPS = 60


def settings(case: str, workers: int) -> Settings:
    players = (
        {"noise": Optim("sgd", 0.05), "task": Optim("adamw", 0.01)}
        if case == "duel"
        else {"main": Optim("adamw", 0.01)}
    )
    return Settings(steps=STEPS, optim=players, batch=7, workers=workers, clip=1.0, ema=0.9, evaluate_percent=10, log_every=4,
                    checkpoint_seconds=0.01)  # fmt: skip


def train(folder: Path, name: str, case: str, workers: int) -> None:
    torch.manual_seed(3)
    task = Sort(SmallNet())
    method = Duel(task) if case == "duel" else Supervise(task)
    engine = Engine(settings(case, workers), device="cpu", logger=CsvLogger(folder / f"{name}.csv"),
                    checkpoint=folder / f"{name}.pt", resume=True)  # fmt: skip
    try:
        engine.train(method, Data({"train": Pictures(40, broken={5})}, Pictures(30, seed=1)))
    except Interrupted:
        sys.exit(130)
    torch.save(task.state_dict(), folder / f"{name}.weights")


def reached(path: Path) -> int:
    lines = path.read_text().splitlines() if path.exists() else []
    return int(lines[-1].split(",")[0]) if len(lines) > 1 else 0


def ended(child: multiprocessing.Process, path: Path, step: int, how: int) -> int:
    """Let a child come to a step, end it, return its exit code."""
    child.start()
    while child.is_alive() and reached(path) < step:
        time.sleep(0.001)
    time.sleep(random.random() * 0.01)
    os.kill(child.pid, how)
    child.join()
    return child.exitcode


def kill_and_compare(folder: Path, case: str, workers: int) -> None:
    """Three kills, one SIGTERM, then to the end; and a whole run with the other number of workers."""
    folder.mkdir()
    fork = multiprocessing.get_context("fork")

    def child(name: str, workers: int) -> multiprocessing.Process:
        return fork.Process(target=train, args=(folder, name, case, workers))

    log = folder / "killed.csv"
    steps = sorted(random.sample(range(2, STEPS - 12), 3))
    codes = [ended(child("killed", workers), log, step, signal.SIGKILL) for step in steps]
    codes.append(ended(child("killed", workers), log, STEPS - 8, signal.SIGTERM))
    for last in (child("killed", workers), child("whole", 2 - workers)):
        last.start()
        last.join()
        codes.append(last.exitcode)
    print(case, "ended near", steps, "codes", *codes, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)  # and forked only: no thread pool exists yet that a fork could break
    kill_and_compare(Path(sys.argv[1]) / "single", "single", 0)
    kill_and_compare(Path(sys.argv[1]) / "duel", "duel", 2)
