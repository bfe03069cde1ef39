"""What distillation costs beside training the student alone: `python benchmarks/cache.py [--out FILE]`.

Three arms train the same student on the same views of the same images in batches of the same size: on labels alone, with
a teacher that is asked at every step, and with what the teacher said read from the cache, which was filled before. The
arms are interleaved; a ratio is the median over the rounds, each against the student alone in its own round. Ratios are
given for the wall clock and for the processor's time, which other processes on the machine disturb less. Filling is timed
apart. Three cases: 1,000 outputs, which are kept in float32; 5,000, in float16; and the largest 256 of 5,000.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import torch

from marrow.core.cost import cost
from marrow.core.engine import Engine
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.versions import versions
from marrow.tasks.classify import Classify
from marrow.teach.ssld import SSLD
from marrow.teach.supervised import Supervised

TEACHER, STUDENT, SIZE, IMAGES, BATCH, VIEWS = "resnet50", "resnet10t", 64, 256, 32, 2
ARMS = ("student alone", "online", "cached")
CASES = ((1000, "sym_kl"), (5000, "sym_kl"), (5000, "kl"))
TARGET = 0.95
WARM = 4  # steps before the clock starts


class Pictures(Source):
    """Noise of 80 px, from which views of 64 px are cut."""

    def __init__(self, classes: int):
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (IMAGES, 3, 80, 80), generator=draw, dtype=torch.uint8)
        self.labels = torch.randint(0, classes, (IMAGES,), generator=draw).tolist()

    def __len__(self):
        return IMAGES

    def __getitem__(self, index):
        return {"image": self.images[index], "label": self.labels[index]}

    def fraction(self, index):
        return index / IMAGES


def task(name: str, classes: int) -> Classify:
    torch.manual_seed(0)
    return Classify(TimmBackbone.create(name, img_size=SIZE), classes=classes)


def teacher(classes: int) -> Classify:
    """Untrained; its logits are spread as far as a trained one's."""
    made = task(TEACHER, classes).eval()
    with torch.no_grad():
        made.head.weight.mul_(
            8.0 / made({"image": Pictures(classes).images[:8, :, :SIZE, :SIZE]})["logits"].std(1).mean()
        )
    return made


class Times:
    """A logger that only looks at the clocks."""

    def __init__(self):
        self.seen = []

    def log(self, step, values):
        self.seen.append((step, time.perf_counter(), time.process_time()))

    def close(self):
        pass

    def rates(self) -> tuple[float, float]:
        """Images a second by either clock, from the first line to the last."""
        (first, *start), (last, *end) = self.seen[0], self.seen[-1]
        wall, cpu = ((last - first) * BATCH / (e - s) for s, e in zip(start, end))
        return wall, cpu


def method(arm: str, classes: int, divergence: str):
    student = task(STUDENT, classes)
    if arm == "student alone":
        return Supervised(student, crop=(0.08, 1.0), flip=True)
    return SSLD(student, teacher(classes), divergence=divergence)


def one(arm: str, case: tuple[int, str], steps: int, cache: Path) -> dict:
    settings = Settings(steps=steps, batch=BATCH, optim={"main": Optim("sgd", 0.01)}, log_every=WARM,
                        cached_views=None if arm == "student alone" else VIEWS)  # fmt: skip
    times = Times()
    engine = Engine(settings, device="cpu", logger=times, cache=cache if arm == "cached" else None)
    began = time.perf_counter()
    engine.train(method(arm, *case), Data({"train": Pictures(case[0])}))
    around = time.perf_counter() - began - engine.history["seconds"]
    wall, cpu = times.rates()
    return {"wall": wall, "cpu": cpu, "around": around, **(engine.history["teacher_cache"] or {})}


def measure(case: tuple[int, str], rounds: int, steps: int) -> dict:
    found: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        # As many steps as the rounds will take, so that all their views are stored.
        filled = one("cached", case, steps, cache)
        for _ in range(rounds):
            for arm in ARMS:
                found[arm].append(one(arm, case, steps, cache))
        taken = sum(f.stat().st_size for f in cache.rglob("*.rows"))
    alone = found["student alone"]
    share = {clock: {arm: [r[clock] / a[clock] for r, a in zip(rows, alone)] for arm, rows in found.items()}
             for clock in ("wall", "cpu")}  # fmt: skip
    return {
        "outputs": case[0],
        "divergence": case[1],
        "images_per_second": {arm: round(statistics.median(r["wall"] for r in rows), 1) for arm, rows in found.items()},
        "share_of_student_alone": {clock: {arm: round(statistics.median(s), 3) for arm, s in shares.items()}
                                   for clock, shares in share.items()},
        "rounds": {clock: {arm: [round(x, 3) for x in s] for arm, s in shares.items()} for clock, shares in share.items()},
        "views_stored": filled["asked"],
        "seconds_to_store": round(filled["around"], 1),
        "asked_again": found["cached"][-1]["asked"],
        "bytes_a_view": round(taken / filled["asked"]),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=VIEWS * IMAGES // BATCH)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    runs = [measure(case, args.rounds, args.steps) for case in CASES]
    found = {
        "teacher": {"name": TEACHER, "macs": cost(task(TEACHER, 1000)).macs},
        "student": {"name": STUDENT, "macs": cost(task(STUDENT, 1000)).macs},
        "pixels": SIZE,
        "batch": BATCH,
        "steps": args.steps,
        "target": TARGET,
        "runs": runs,
        "load": round(load, 2),
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "machine": platform.machine(),
        "versions": versions(),
    }
    for run in runs:
        print(f"{run['outputs']} outputs, {run['divergence']}, {run['bytes_a_view']} bytes a view, {run['seconds_to_store']} s to store "
              f"{run['views_stored']} views")  # fmt: skip
        print(f"{'arm':16} {'images/s':>10} {'of student alone':>18} {'in CPU time':>13}")
        wall, cpu = (run["share_of_student_alone"][clock] for clock in ("wall", "cpu"))
        for arm in ARMS:
            print(f"{arm:16} {run['images_per_second'][arm]:10.1f} {wall[arm]:18.1%} {cpu[arm]:13.1%}")
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
