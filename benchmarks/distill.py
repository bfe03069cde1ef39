"""Online distillation against a hand-written loop and two libraries: `python benchmarks/distill.py [--out FILE]`.

The loop: marrow's SSLD through the engine, and torchdistill's DistillationBox, each against the same hand-written PyTorch
loop in the same process, with torchvision's untrained ResNet-50 as the teacher of its ResNet-18 at 64 px, KL, SGD, and
the same batches from the same place; their losses must agree, or there is no figure. torchdistill takes its own steps of
an epoch; its loader and printing are left out, while marrow's loader feeds both of its arms and its logger is on.

The pipeline: images a second of LightlyTrain's `pretrain(method="distillation")` and of a marrow recipe with
`feature_distillation`, both reading one folder of JPEGs: the run of many steps less that of few, so that starting and
saving drop out, after a run that warms up. Equal: the teacher (DINOv2's ViT-S/14 with random weights, which is how either
has it without a download), the student (ResNet-18), image size, batch, random crop and flip, SGD, one thread, no workers.
Not equal: the losses, which are each library's own for pooled and local features; LightlyTrain's position embedding is
made for 518 px and resampled, marrow's for the size; LightlyTrain also shows progress, writes TensorBoard events and has
Lightning's profiler on, marrow writes its CSV.

Arms are interleaved; figures are medians over the rounds, ratios the median of those within a round, also for the
processor's time, which other processes disturb less.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from datetime import date
from functools import partial
from pathlib import Path

import torch
from loading import LIGHTLY, SMALL, pictures
from peer.distill_bare import BATCH, CLASSES, LR, SIZE, WARM, Clock, hand_written, nets, unequal
from peers import ask, environment, same_torch

from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data, train_batches
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.versions import versions
from marrow.data import open_source
from marrow.run import run
from marrow.tasks.classify import Classify
from marrow.teach.ssld import SSLD

PEER = Path(__file__).parent / "peer"
TARGET = 1.05
PIXELS, IMAGES_A_STEP, FEW = 112, 8, 2


class Pictures(Source):
    """Noise of the size that the nets take."""

    def __init__(self):
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (256, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index]}

    def label(self, index):
        return None

    def fraction(self, index):
        return index / len(self)


class Notes(Clock):
    """A logger that keeps the losses and looks at the clocks."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def log(self, step, values):
        self.losses.append(values["kl"])
        self.tick(step)

    def close(self):
        pass


def task(name: str, net: torch.nn.Module) -> Classify:
    """torchvision's net as a model of marrow; timm's of that name has the same weights under the same keys."""
    made = Classify(TimmBackbone.create(name, img_size=SIZE), classes=CLASSES)
    state = net.state_dict()
    made.head.load_state_dict({key: state.pop(f"fc.{key}") for key in ("weight", "bias")})
    made.backbone.net.load_state_dict(state)
    return made


def of_marrow(steps: int) -> tuple[dict, list[float]]:
    student, teacher = (task(name, net) for name, net in zip(("resnet18", "resnet50"), nets()))
    notes, settings = Notes(), settings_of(steps)
    Engine(settings, device="cpu", logger=notes).train(
        SSLD(student, teacher, divergence="kl", crop=None, flip=False), Data({"train": Pictures()})
    )
    return notes.seconds(), notes.losses


def by_hand(steps: int) -> tuple[dict, list[float]]:
    student, teacher = nets()
    batches = train_batches(Data({"train": Pictures()}), ("train",), None, settings_of(steps))
    return hand_written(student, teacher, (batch["image"] for batch in batches), steps)


def settings_of(steps: int) -> Settings:
    optim = Optim("sgd", LR, schedule="constant", warmup_percent=0)
    return Settings(steps=steps, batch=BATCH, optim={"main": optim}, log_every=1)


def loop(rounds: int, steps: int) -> dict[str, list[dict]]:
    """Seconds a step of both arms in every round; the first round warms up and is left out."""
    arms, found = {"hand-written": by_hand, "marrow": of_marrow}, {"hand-written": [], "marrow": []}
    for number in range(rounds + 1):
        losses = {}
        for name, arm in arms.items():
            seconds, losses[name] = arm(steps if number else WARM + 1)
            if number:
                found[name].append(seconds)
        if unequal(*losses.values()):
            raise MarrowError(f"the losses differ, so the arms do not do the same: {losses}")
    return found


def over(rows: dict[str, list[dict]], arm: str) -> dict:
    """An arm's figures beside those of the hand-written loop of its own process."""
    ratios = {
        clock: [a[clock] / b[clock] for a, b in zip(rows[arm], rows["hand-written"])] for clock in ("wall", "cpu")
    }
    return {
        "milliseconds_a_step": {name: round(1e3 * statistics.median(r["wall"] for r in seconds), 1)
                                for name, seconds in rows.items()},
        "over_hand_written": {clock: round(statistics.median(found), 3) for clock, found in ratios.items()},
        "rounds": {clock: [round(ratio, 3) for ratio in found] for clock, found in ratios.items()},
    }  # fmt: skip


def recipe(folder: Path, steps: int) -> dict:
    backbone = partial(dict, img_size=PIXELS)
    return {"seed": 0, "stages": [{
        "teach": "feature_distillation", "name": "student",
        "student": backbone(backbone="resnet18"), "teacher": backbone(backbone="vit_small_patch14_dinov2"),
        "data": {"train": [{"images": str(folder), "labels": False}], "batch": IMAGES_A_STEP, "workers": 0},
        "args": {"dense": 1.0}, "optim": {"sgd": {"lr": 0.01}, "schedule": "cosine"}, "steps": steps,
    }]}  # fmt: skip


def pipeline_of_marrow(folder: Path, many: int) -> dict | None:
    """Images a second by the clock and by the processor's time; None, with a printed word, where it can't be told."""

    def seconds(steps: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as out:
            began, cpu_began = time.perf_counter(), time.process_time()
            run(recipe(folder, steps), Path(out) / "run", device="cpu", quiet=True)
            return time.perf_counter() - began, time.process_time() - cpu_began

    seconds(1)  # what is only done once in a process
    taken = [more - less for less, more in zip(seconds(FEW), seconds(many))]
    if min(taken) <= 0:
        print(
            f"marrow's pipeline left out: {many} steps took no longer than {FEW}: too few, or the machine is too busy"
        )
        return None
    return {clock: (many - FEW) * IMAGES_A_STEP / spent for clock, spent in zip(("wall", "cpu"), taken)}


def pipeline(photos: Source, python: Path, rounds: int, many: int) -> dict | None:
    """Images a second of both, LightlyTrain's in a process of its own each time; None where one has no figure."""
    found, seen = {"marrow": [], "LightlyTrain": []}, {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = pictures(photos, SMALL, (many + 1) * IMAGES_A_STEP, Path(temporary) / "jpegs")
        for _ in range(rounds):
            theirs = ask(python, PEER / "distill_lightly.py", str(folder), "dinov2/vits14-notpretrained", "torchvision/resnet18",
                         *map(str, (PIXELS, IMAGES_A_STEP, FEW, many)))  # fmt: skip
            ours = theirs and pipeline_of_marrow(folder, many)
            if theirs is None or ours is None:
                return None
            found["LightlyTrain"].append(theirs["images_per_second"])
            found["marrow"].append(ours)
            seen = theirs["versions"]
    by_clock = {
        clock: {name: [row[clock] for row in rows] for name, rows in found.items()} for clock in ("wall", "cpu")
    }
    return {
        "images_per_second": {name: round(statistics.median(values), 2) for name, values in by_clock["wall"].items()},
        "marrow_over": {clock: round(statistics.median(m / t for m, t in zip(rows["marrow"], rows["LightlyTrain"])), 3)
                        for clock, rows in by_clock.items()},
        "rounds": {clock: {name: [round(value, 2) for value in values] for name, values in rows.items()}
                   for clock, rows in by_clock.items()},
        "versions": seen,
    }  # fmt: skip


def measure(photos: Source | None, rounds: int, steps: int, many: int) -> dict:
    load, loops, peers = os.getloadavg(), {"marrow": over(loop(rounds, steps), "marrow")}, {}
    if (python := environment("torchdistill", "torchdistill==1.1.5", same_torch())) and (
        theirs := ask(python, PEER / "torchdistill_loop.py", str(rounds), str(steps))
    ):
        loops["torchdistill"] = over(theirs["rounds"], "torchdistill")
        peers |= theirs["versions"]
    whole = None
    if photos is None:
        print("LightlyTrain left out: there are no photos to make a folder from; give --photos")
    elif python := environment("lightly-train", *LIGHTLY):
        whole = pipeline(photos, python, rounds, many)
        peers |= whole.pop("versions") if whole else {}
    return {
        "loop": loops,
        "pipeline": whole,
        "target": {"marrow over the hand-written loop": TARGET},
        "settings": {"rounds": rounds, "steps": steps, "pipeline_steps": [FEW, many], "batch": [BATCH, IMAGES_A_STEP],
                     "pixels": [SIZE, PIXELS], "threads": 1},
        "load": {"before": load, "after": os.getloadavg()},
        "versions": {**versions(), **{f"peer {name}" if name == "torch" else name: v for name, v in peers.items()}},
        "cores": os.cpu_count(),
        "date": date.today().isoformat(),
        "machine": platform.machine(),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=Path, default=Path(os.environ.get("MARROW_DATA", "../shared/data")) / "camvid",
                        help="photos to make the JPEGs from")  # fmt: skip
    parser.add_argument("--out", type=Path, help="also write the figures as JSON")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=WARM + 8, help=f"of the loop; the first {WARM} are not counted")
    parser.add_argument("--many", type=int, default=10, help=f"steps of a pipeline's run; those of {FEW} are taken off")
    args = parser.parse_args()
    if args.rounds < 1 or args.steps <= WARM or args.many <= FEW:
        parser.error(f"--rounds 1, --steps {WARM + 1} and --many {FEW + 1} are the least")
    torch.set_num_threads(1)
    photos = open_source({"images": str(args.photos), "labels": False}) if args.photos.exists() else None
    found = measure(photos, args.rounds, args.steps, args.many)
    print(f"load before {found['load']['before'][0]:.1f}, after {found['load']['after'][0]:.1f}; {found['versions']}")
    print(f"\n{'loop':14} {'ms a step':>10} {'by hand':>10} {'ratio':>8} {'in CPU time':>12} {'target':>8}")
    for name, row in found["loop"].items():
        ms, ratio, target = row["milliseconds_a_step"], row["over_hand_written"], TARGET if name == "marrow" else ""
        print(
            f"{name:14} {ms[name]:10.1f} {ms['hand-written']:10.1f} {ratio['wall']:8.3f} {ratio['cpu']:12.3f} {target:>8}"
        )
    if whole := found["pipeline"]:
        print(f"\n{'pipeline':14} {'images/s':>10} {'marrow is':>10} {'in CPU time':>12}")
        for name, value in whole["images_per_second"].items():
            wall, cpu = (f"{whole['marrow_over'][clock]:.2f}x" if name != "marrow" else "" for clock in ("wall", "cpu"))
            print(f"{name:14} {value:10.2f} {wall:>10} {cpu:>12}")
    if args.out:
        args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
