"""Trains what test_ddp.py compares, as one of two processes; the first does it alone as well: `ddp_run.py FOLDER`."""

import os
import sys
from pathlib import Path

import torch
from engine_pieces import Duel, Learn, Pictures, Plainly, SmallNet, Sort
from torch import nn

from marrow.core.contracts import Step
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.loggers import CsvLogger
from marrow.core.settings import Optim, Settings


class Still(Duel):
    """Two players without random numbers."""

    def forward(self, batch, clock, player="task"):
        image = batch["image"] / 255.0 + 0.1 * torch.tanh(self.noise)
        loss = self.task.losses(self.task({**batch, "image": image}), batch)["cross_entropy"]
        return Step({"hurt": -loss} if player == "noise" else {"cross_entropy": loss})

    def after_step(self, clock):
        self.mean.lerp_(self.noise.detach().mean(), 0.1)

    def views(self):
        return None


class Idle(Plainly):
    """Has a weight that no loss reaches."""

    def __init__(self, task):
        super().__init__(task)
        self.idle = nn.Parameter(torch.ones(3))


def short(base, most):
    class Short(base):
        def forward(self, batch, clock, player="main"):
            if len(batch["label"]) > most:
                raise torch.OutOfMemoryError
            return super().forward(batch, clock, player)

    return Short


def made(cls):
    torch.manual_seed(0)
    return cls(Sort(SmallNet(plain=True)))


def settings(**changes):
    return Settings(
        **{"steps": 20, "batch": 8, "optim": {"main": Optim("sgd", 0.05)}, "clip": 1.0, "log_every": 5, **changes}
    )


TWO = {"noise": Optim("sgd", 0.05), "task": Optim("sgd", 0.05)}
CASES = {
    "plain": (Plainly, settings(ema=0.9, evaluate_percent=25)),
    "micro": (Plainly, settings(micro_batch=2)),
    "players": (Still, settings(optim=TWO)),
    "idle": (Idle, settings()),
    "cached": (Learn, settings(cached_views=2)),
}


def train(case, folder, devices):
    cls, chosen = CASES[case]
    method = made(cls)
    engine = Engine(chosen, device="cpu", devices=devices, checkpoint=folder / f"{case}.pt",
                    logger=CsvLogger(folder / f"{case}-{os.environ['RANK']}.csv"), cache=folder / "cache")  # fmt: skip
    engine.train(method, Data({"train": Pictures(30)}, Pictures(20, seed=1)))
    found = {case: dict(method.state_dict()), f"{case} best": str(engine.history["best"])}
    return found | ({"asked": [len(method.asked), engine.history["teacher_cache"]]} if case == "cached" else {})


def short_of_memory():
    """Only the second process is short of memory; both have to take the smaller parts, or to be told."""
    most, data = 1 if os.environ["RANK"] == "1" else 100, Data({"train": Pictures(30)})
    method, engine = made(short(Plainly, most)), Engine(settings(), device="cpu", devices=2)
    engine.train(method, data)

    class Joint(short(Plainly, most)):
        per_sample = False

    try:
        engine.train(made(Joint), data)
    except MarrowError as error:
        return {"short": dict(method.state_dict()), "short parts": engine.history["micro_batch"], "joint": str(error)}
    return {}


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), os.environ["RANK"]
    engine = Engine(device="cpu", devices=2)
    found = {"map": engine.map(abs, range(-5, 0)), **short_of_memory()}
    for case in CASES:
        found |= train(case, folder / "two", 2)
    torch.save(found, folder / f"found-{rank}.pt")
    if rank == "0":  # an engine with one device keeps to itself, also among others
        alone = [train(case, folder / "one", 1) for case in CASES]
        torch.save({name: value for found in alone for name, value in found.items()}, folder / "alone.pt")
