"""LightlyTrain's distillation on a folder of JPEGs: `python distill_lightly.py FOLDER TEACHER STUDENT SIZE BATCH FEW MANY`.

Images a second, from the time of a whole run of MANY steps less that of one of FEW: by the clock, by the processor's time,
and by the part of the first that it waited for its data loader, which Lightning's own profiler tells. Nothing is downloaded: the teacher has random weights. Views are crops of 8 to 100 % of the area,
mirrored; the other changes that the method makes to images by default are switched off.
"""

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
from importlib.metadata import version

os.environ |= {"LIGHTLY_TRAIN_EVENTS_DISABLED": "1", "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}

import lightly_train
import torch

WAITED = re.compile(r"train_dataloader_next\s*\|\s*([\d.e+-]+)\s*\|\s*(\d+)")


def run(folder, teacher, student, size, batch, steps):
    """Seconds by the clock, by the processor's time, and of waiting for batches."""
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        began, cpu_began = time.perf_counter(), time.process_time()
        lightly_train.pretrain(
            out=out, overwrite=True, data=folder, model=student, method="distillation", method_args={"teacher": teacher},
            batch_size=batch, num_workers=0, epochs=1000, accelerator="cpu", devices=1, precision="32-true",
            optim="sgd", optim_args={"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0},
            transform_args={"image_size": (size, size), "random_resize": {"min_scale": 0.08, "max_scale": 1.0},
                            "color_jitter": None, "gaussian_blur": None, "random_gray_scale": None},
            trainer_args={"max_epochs": -1, "max_steps": steps, "profiler": "simple"},
        )  # fmt: skip
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu_began
        with open(os.path.join(out, "train.log"), encoding="utf-8") as log:
            mean, calls = WAITED.findall(log.read())[-1]
    return {"wall": wall, "cpu": cpu, "loader": float(mean) * int(calls)}


def main():
    folder, teacher, student, *numbers = sys.argv[1:]
    size, batch, few, many = map(int, numbers)
    torch.set_num_threads(1)
    run(folder, teacher, student, size, batch, 1)  # what is only done once in a process
    less, more = (run(folder, teacher, student, size, batch, n) for n in (few, many))
    if any(more[clock] <= less[clock] for clock in more):
        sys.exit(f"{many} steps took no longer than {few}: too few, or the machine is too busy")
    found = {
        "images_per_second": {clock: (many - few) * batch / (more[clock] - less[clock]) for clock in more},
        "versions": {name: version(name) for name in ("lightly-train", "torch")},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
