"""accelerate's training step against the bare loop: `python accelerate_loop.py ROUNDS STEPS`.

Alone it prepares net and optimiser and does the backward pass. With everything it has of what marrow has on: a learning-rate
schedule, a log line each ten steps through a tracker, a progress bar, and a state saved each second. It has no average of the
weights and does not look at the loss.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator, __version__
from accelerate.tracking import GeneralTracker
from accelerate.utils import tqdm
from loop_bare import LOG_EVERY, SAVE_SECONDS, Timed, bare, in_turns, sgd


class Csv(GeneralTracker):
    """Appends a line a value, written through at once."""

    name, requires_logging_directory = "csv", False

    def __init__(self, file):
        super().__init__()
        self.file = file.open("w")

    @property
    def tracker(self):
        return self.file

    def log(self, values, step, **kwargs):
        self.file.write("".join(f"{step},{name},{value!r}\n" for name, value in values.items()))
        self.file.flush()


def alone(model, batches, steps):
    accelerator, batches = Accelerator(cpu=True), Timed(batches)
    model, optimizer = accelerator.prepare(model, sgd(model))
    began = time.perf_counter()
    for _ in range(steps):
        x, label = next(batches)
        loss = F.cross_entropy(model(x), label)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - began - batches.seconds


def everything(model, batches, steps):
    with tempfile.TemporaryDirectory() as folder:
        accelerator, batches = Accelerator(cpu=True, log_with=Csv(Path(folder) / "log.csv")), Timed(batches)
        accelerator.init_trackers("loop")
        optimizer = sgd(model)
        constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        model, optimizer, constant = accelerator.prepare(model, optimizer, constant)
        losses = []
        began = saved = time.perf_counter()
        for step in tqdm(range(1, steps + 1)):
            x, label = next(batches)
            loss = F.cross_entropy(model(x), label)
            accelerator.backward(loss)
            optimizer.step()
            constant.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            if step % LOG_EVERY == 0:
                accelerator.log({"cross_entropy": torch.stack(losses).mean().item()}, step=step)
                losses.clear()
            if time.perf_counter() - saved >= SAVE_SECONDS:
                accelerator.save_state(str(Path(folder) / "state"))
                saved = time.perf_counter()
        return time.perf_counter() - began - batches.seconds


def main():
    rounds, steps = int(sys.argv[1]), int(sys.argv[2])
    found = in_turns({"bare": bare, "accelerate alone": alone, "accelerate": everything}, rounds, steps)
    print(json.dumps({"rounds": found, "versions": {"accelerate": __version__, "torch": torch.__version__}}))


if __name__ == "__main__":
    main()
