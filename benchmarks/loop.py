"""What the engine's loop costs over a bare PyTorch loop: `python benchmarks/loop.py [--out FILE]`.

Three arms take the same optimiser steps on a tiny MLP with the same batches: the bare loop, Fabric alone, and the
engine with logging, EMA, progress and checkpoints on. Reading data is kept out: every arm draws its batches from the
same source through marrow's loader, whose examples are ready-made, and the time spent in it is taken off. The arms
are interleaved; the figures are medians over the rounds.
"""

import argparse
import io
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn

from marrow.core.contracts import Method, Step
from marrow.core.engine import Engine
from marrow.core.loader import Data, train_batches
from marrow.core.loggers import CsvLogger
from marrow.core.progress import Progress
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source

STEPS, BATCH, WIDTH = 2000, 8, 64
OPTIM = Optim("sgd", 1e-3, schedule="constant", warmup_percent=0)


class Rows(Source):
    """Ready-made rows of numbers."""

    def __init__(self):
        self.x, self.labels = torch.randn(256, WIDTH), torch.randint(0, 10, (256,)).tolist()

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"x": self.x[index], "label": self.labels[index]}

    def fraction(self, index):
        return index / len(self)


class Classify(Method):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, batch, clock, player="main"):
        return Step({"cross_entropy": F.cross_entropy(self.net(batch["x"]), batch["label"])})

    def product(self):
        return self.net


class Timed:
    """An iterator that knows how long it was waited for."""

    def __init__(self, batches):
        self.batches, self.seconds = batches, 0.0

    def __next__(self):
        began = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - began
        return batch


def bare(method, data, steps):
    optimizer = torch.optim.SGD(method.parameters(), lr=OPTIM.lr, momentum=0.9, foreach=True)
    batches = Timed(train_batches(data, ("train",), None, Settings(steps=steps, batch=BATCH)))
    began = time.perf_counter()
    for _ in range(steps):
        batch = next(batches)
        loss = F.cross_entropy(method.net(batch["x"]), batch["label"])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began - batches.seconds


def fabric(method, data, steps):
    runner = Fabric(accelerator="cpu", devices=1)
    optimizer = torch.optim.SGD(method.parameters(), lr=OPTIM.lr, momentum=0.9, foreach=True)
    net, optimizer = runner.setup(method.net, optimizer)
    batches = Timed(train_batches(data, ("train",), None, Settings(steps=steps, batch=BATCH)))
    began = time.perf_counter()
    for _ in range(steps):
        batch = next(batches)
        loss = F.cross_entropy(net(batch["x"]), batch["label"])
        runner.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began - batches.seconds


def engine(method, data, steps):
    """Everything on: a log line each 10 steps, EMA, a progress line, and a checkpoint each second."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(steps=steps, batch=BATCH, optim={"main": OPTIM}, ema=0.999, checkpoint_seconds=1.0)
        ours = Engine(settings, device="cpu", logger=CsvLogger(Path(folder) / "log.csv"),
                      checkpoint=Path(folder) / "checkpoint.pt", progress=Progress("loop", io.StringIO()))  # fmt: skip
        ours.train(method, data)
        return ours.history["seconds"] * (1.0 - ours.history["data_wait_share"])


ARMS = {"bare": bare, "fabric": fabric, "marrow": engine}


def measure(rounds: int, steps: int) -> dict:
    data, times = Data({"train": Rows()}), {name: [] for name in ARMS}
    for arm in ARMS.values():
        arm(Classify(), data, steps // 10)
    for _ in range(rounds):
        for name, arm in ARMS.items():
            torch.manual_seed(0)
            times[name].append(arm(Classify(), data, steps) / steps * 1e6)
    over = {name: statistics.median(t - b for t, b in zip(times[name], times["bare"])) for name in ARMS}
    return {
        "microseconds_a_step": {name: round(statistics.median(t), 1) for name, t in times.items()},
        "over_bare": {name: round(o, 1) for name, o in over.items()},
        "rounds": rounds,
        "steps": steps,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    found = measure(args.rounds, args.steps)
    print(f"{'arm':8} {'us a step':>10} {'over bare':>10}")
    for name in ARMS:
        print(f"{name:8} {found['microseconds_a_step'][name]:10.1f} {found['over_bare'][name]:10.1f}")
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
