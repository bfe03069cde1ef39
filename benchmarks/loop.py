"""What training loops cost over the bare PyTorch loop: `python benchmarks/loop.py [--out FILE]`.

A tiny MLP, where a step is hardly more than what the loop around it does: the bare loop, Fabric alone, marrow's engine with a
learning-rate schedule, a log line each ten steps, an average of the weights, a progress line, a checkpoint each second and a
look at every loss; accelerate and Lightning's Trainer, each alone and with as much of that as it has (`peer/*_loop.py` say
what), in environments of their own beside a bare loop of their own. And a real net, the bare loop and the engine with all of
that on, its checkpoints as seldom as by default. All take the same optimiser steps on one thread. The wait for batches, whose
examples are ready-made, is taken off. Arms take turns; figures are medians over the rounds, differences and ratios are to
the bare loop of the same round and process.
"""

import argparse
import io
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from peer.loop_bare import BATCH, DECAY, LOG_EVERY, LR, MOMENTUM, SAVE_SECONDS, WIDTH, Timed, bare, net, sgd
from peers import ask, environment, same_torch

from marrow.core.contracts import Input, Method, Step
from marrow.core.engine import Engine
from marrow.core.loader import Data, train_batches
from marrow.core.loggers import CsvLogger
from marrow.core.progress import Progress
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.versions import versions
from marrow.tasks.classify import Classify
from marrow.teach.supervised import Supervised

OPTIM = Optim("sgd", LR, {"momentum": MOMENTUM}, schedule="constant", warmup_percent=0)
REAL, SIZE, REAL_BATCH = "mobilenetv3_small_100", 128, 16
MOST_OVER, MOST_TIMES = 60, 1.02  # the targets: microseconds over the bare loop, and times its step on the real net
PEERS = {"accelerate": ("accelerate==1.15.0", same_torch()), "lightning": ("lightning==2.6.6", same_torch())}


class Rows(Source):
    """Ready-made examples."""

    def __init__(self, **fields):
        self.fields = fields

    def __len__(self):
        return len(self.fields["label"])

    def __getitem__(self, index):
        return {name: values[index] for name, values in self.fields.items()}

    def fraction(self, index):
        return index / len(self)


class Tiny(Method):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, batch, clock, player="main"):
        return Step({"cross_entropy": F.cross_entropy(self.net(batch["x"]), batch["label"])})

    def product(self):
        return self.net


def pairs(data, size, field, steps):
    """(input, label) through marrow's loader."""
    batches = train_batches(data, ("train",), None, Settings(steps=steps, batch=size))
    return ((batch[field], batch["label"]) for batch in batches)


def fabric(model, batches, steps):
    runner, batches = Fabric(accelerator="cpu", devices=1), Timed(batches)
    model, optimizer = runner.setup(model, sgd(model))
    began = time.perf_counter()
    for _ in range(steps):
        x, label = next(batches)
        loss = F.cross_entropy(model(x), label)
        runner.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began - batches.seconds


def engine(method, data, **settings):
    """Seconds without the wait for batches, with everything on."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(optim={"main": OPTIM}, ema=DECAY, log_every=LOG_EVERY, **settings)
        ours = Engine(settings, device="cpu", logger=CsvLogger(Path(folder) / "log.csv"),
                      checkpoint=Path(folder) / "checkpoint.pt", progress=Progress("loop", io.StringIO()))  # fmt: skip
        ours.train(method, data)
        return ours.history["seconds"] * (1.0 - ours.history["data_wait_share"])


def tiny_arms():
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, (256,), generator=draw).tolist()
    data = Data({"train": Rows(x=torch.randn(256, WIDTH, generator=draw), label=labels)})
    return {
        "bare": lambda steps: bare(net(), pairs(data, BATCH, "x", steps), steps),
        "Fabric alone": lambda steps: fabric(net(), pairs(data, BATCH, "x", steps), steps),
        "marrow": lambda steps: engine(Tiny(), data, steps=steps, batch=BATCH, checkpoint_seconds=SAVE_SECONDS),
    }


class Normalized(torch.nn.Module):
    """timm's net as a loop by hand would feed it."""

    def __init__(self, model, input: Input):
        super().__init__()
        self.net = model
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (input.mean, input.std))

    def forward(self, image):
        return self.net((image / 255.0 - self.mean) / self.std)


def real_arms():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    data = Data({"train": Rows(image=images, label=torch.randint(0, 10, (64,), generator=draw).tolist())})

    def by_hand(steps):
        torch.manual_seed(0)
        model = Normalized(
            timm.create_model(REAL, num_classes=10), TimmBackbone.create(REAL, img_size=SIZE).input
        ).train()
        return bare(model, pairs(data, REAL_BATCH, "image", steps), steps)

    def ours(steps):
        torch.manual_seed(0)
        task = Classify(TimmBackbone.create(REAL, img_size=SIZE), classes=10)
        return engine(Supervised(task), data, steps=steps, batch=REAL_BATCH)

    return {"bare": by_hand, "marrow": ours}


def in_turns(arms, rounds, steps):
    """Microseconds a step of each arm, a number a round; what warms them up is not counted."""
    for arm in arms.values():
        arm(max(1, steps // 10))
    found = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            found[name].append(1e6 * arm(steps) / steps)
    return found


def peer(name, rounds, steps):
    """As `in_turns`, in the peer's own environment; with its versions. Nothing where it can't be had."""
    if not (python := environment(name, *PEERS[name])):
        return {}, {}
    answer = ask(python, Path(__file__).parent / "peer" / f"{name}_loop.py", str(rounds), str(steps))
    return (answer["rounds"], answer["versions"]) if answer else ({}, {})


def table(case, found):
    """One row an arm."""
    rows = []
    for arm, times in found.items():
        over = statistics.median(t - b for t, b in zip(times, found["bare"]))
        ratio = statistics.median(t / b for t, b in zip(times, found["bare"]))
        rows.append({"case": case, "arm": arm, "us a step": round(statistics.median(times), 1),
                     "us over bare": round(over, 1), "times bare": round(ratio, 3),
                     "each round": [round(t, 1) for t in times]})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--steps", type=int, default=2000, help="of the tiny net in a round; the real one takes a hundredth"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    before, known = os.getloadavg()[0], versions()
    cases = {"tiny MLP": in_turns(tiny_arms(), args.rounds, args.steps)}
    for name in PEERS:
        found, theirs = peer(name, args.rounds, args.steps)
        known |= {k: v for k, v in theirs.items() if k != "torch"}
        cases |= {f"tiny MLP, process of {name}": found} if found else {}
    real = f"{REAL}, {SIZE} px, batch {REAL_BATCH}"
    cases[real] = in_turns(real_arms(), args.rounds, max(1, args.steps // 100))
    rows = [row for case, found in cases.items() for row in table(case, found)]
    ours = {row["case"]: row for row in rows if row["arm"] == "marrow"}
    targets = [
        {"target": f"at most {MOST_OVER} us over the bare loop, tiny MLP", "measured": ours["tiny MLP"]["us over bare"],
         "met": ours["tiny MLP"]["us over bare"] <= MOST_OVER},
        {"target": f"at most {MOST_TIMES} times the bare loop, {REAL}", "measured": ours[real]["times bare"],
         "met": ours[real]["times bare"] <= MOST_TIMES},
    ]  # fmt: skip
    print(f"{'case':42} {'arm':24} {'us a step':>10} {'over bare':>10} {'times bare':>11}")
    for row in rows:
        print(
            f"{row['case']:42} {row['arm']:24} {row['us a step']:10.1f} {row['us over bare']:10.1f} {row['times bare']:11.3f}"
        )
    for row in targets:
        print(f"{row['target']}: {row['measured']}, {'met' if row['met'] else 'missed'}")
    if args.out:
        found = {"date": date.today().isoformat(), "rows": rows, "targets": targets, "steps": args.steps,
                 "rounds": args.rounds, "threads": 1, "cores": os.cpu_count(),
                 "load": {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)},
                 "machine": platform.machine(), "versions": known}  # fmt: skip
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
