"""Kills `marrow run` and `marrow make` at random moments, resumes them, and compares the end with that of a run left alone.

OMP_NUM_THREADS=1 python benchmarks/crash.py --json benchmarks/results/crash.json

Every trial runs the command in a forked process, ends it with SIGKILL one to three times (some are first interrupted with
SIGTERM, so that a checkpoint lies there) and goes on with --resume. Equal means: the same files, and in them the same bytes
but for times, latencies and what is made of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np
import torch
import yaml
from PIL import Image

import marrow
from marrow import backbones as backbones  # registers them
from marrow.cli import main as command
from marrow.core.recipe import Recipe
from marrow.core.versions import versions
from marrow.text_table import table

# Loaded before the forks, so that a trial lasts seconds and a kill meets the work and not the start of Python.
LOADED = ("marrow.make", "marrow.run", "onnxruntime", "onnxscript", "sklearn.datasets", "torch_pruning")
NET = {"backbone": "resnet10t", "channels": [16, 16, 16, 16], "stem_width": 16, "img_size": 32}
COLOURS = {"ant": (200, 40, 40), "bee": (40, 200, 40), "cat": (40, 40, 200)}
TIMES = {"minutes", "actual", "estimate", "latency_ms", "device", "verdict"}  # the verdict compares latencies

SHIPPED = (
    "62kB"  # only the pruned net's int8 file is that small, so what is shipped does not depend on measured latencies
)

Words = list[str]
Kill = tuple[Callable[[], Callable[[], bool]], signal.Signals]  # makes the condition that says when, and how


def pictures(folder: Path, each: int = 20) -> Path:
    """Noise around a colour a class."""
    draw = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            noise = draw.normal(colour, 30, (36, 44, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(folder / name / f"{i}.png")
    return folder


def recipe(file: Path, workers: int) -> Path:
    """Two trainings, a prune between them, and the file of what comes out."""

    def data(**streams: Any) -> dict[str, Any]:
        return {"train": [{"images": "digits", "split": "train", "per_class": 20}], "batch": 32, "workers": workers,
                "val": [{"images": "digits", "split": "val", "per_class": 5}], **streams}  # fmt: skip

    common = {"optim": {"adamw": {"lr": 0.003}}, "evaluate_percent": 20}
    parity = {"parity": [{"images": "digits", "split": "val", "per_class": 5}]}
    task = {"task": "classify", "backbone": NET, "classes": 10}
    stages = [
        {"teach": "supervised", "name": "net", "task": task, "data": data(), "args": {"flip": False}, "steps": 40,
         "ema": 0.9, **common},
        {"shrink": "prune", "name": "cut", "model": {"stage": "net"}, "args": {"ratio": 0.3}},
        {"teach": "ssld", "name": "pruned", "student": {"stage": "cut"}, "teacher": {"stage": "net"}, "data": data(),
         "args": {"crop": None, "flip": False}, "steps": 30, **common},
        {"ship": "onnx", "name": "file", "model": {"stage": "pruned"}, "data": parity},
    ]  # fmt: skip
    file.write_text(Recipe.from_dict({"seed": 0, "stages": stages}).to_yaml(), encoding="utf-8")
    return file


class Trial:
    """One command in a folder of its own, started and ended as often as it takes."""

    def __init__(self, words: Words, out: Path):
        self.words, self.out, self.starts = [*words, "--out", str(out)], out, 0
        out.parent.mkdir(exist_ok=True)

    def start(self) -> int:
        """A forked process that runs the command, with --resume from the second time on."""
        self.starts += 1
        if pid := os.fork():
            return pid
        with open(self.out.with_suffix(".txt"), "a") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        code = 0
        try:
            command([*self.words, *(["--resume"] if self.starts > 1 else [])])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        os._exit(code)  # what the parent loaded is not the child's to tidy up

    def finish(self) -> tuple[int, float]:
        """Exit code and seconds of a start that is left alone."""
        began, pid = time.monotonic(), self.start()
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), time.monotonic() - began

    def end(self, due: Callable[[], bool], how: signal.Signals) -> str | None:
        """Start, end it once `due`, and say where it was; None when it was over before."""
        pid = self.start()
        while not due():
            if os.waitpid(pid, os.WNOHANG)[0]:
                return None
            time.sleep(0.0005)
        place = self.place(pid)
        os.kill(pid, how)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return f"{place} ({how.name}: {code})"

    def place(self, pid: int) -> str:
        """Where a run is, as far as its folder tells."""
        if saved := sorted(name for name in unfinished_in(self.out) if name.endswith(f".{pid}.tmp")):
            return f"writing {saved[0].split('.')[1]}"
        if not (self.out / "recipe.yaml").is_file():
            return "before the first stage"
        names = [stage["name"] for stage in yaml.safe_load((self.out / "recipe.yaml").read_text())["stages"]]
        left = [name for name in names if not (self.out / name / "artifact.json").is_file()]
        if not left:
            return "after the last stage"
        log = self.out / "logs" / f"{left[0]}.csv"
        rows = log.read_text().splitlines()[1:] if log.is_file() else []
        return f"{left[0]}, step {rows[-1].split(',')[0]}" if rows else left[0]


def unfinished_in(out: Path) -> list[str]:
    """Names of what is being written; a folder that gets its own name meanwhile, which `glob` would trip over, is passed by."""
    return [
        n for _, folders, files in os.walk(out) for n in folders + files if n.startswith(".") and n.endswith(".tmp")
    ]


def after(seconds: float) -> Callable[[], bool]:
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


def writing(out: Path, name: str, later: float) -> Callable[[], bool]:
    """As soon as an artifact is being written, and a moment more."""

    def due() -> bool:
        if any(found.startswith(f".{name}.") for found in unfinished_in(out)):
            time.sleep(later)
            return True
        return False

    return due


def comparable(file: Path) -> Any:
    """What must be equal of a file."""
    if file.name in ("report.json", "plan.json", "artifact.json"):
        return timeless(json.loads(file.read_text(encoding="utf-8")))
    if file.name == "report.html":
        return None  # report.json as a page
    return file.read_bytes()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def unequal(one: Path, other: Path) -> Iterator[str]:
    """Files of two finished runs that differ or that only one of them has."""
    here, there = ({p.relative_to(f).as_posix() for p in f.rglob("*")} for f in (one, other))
    yield from (f"{name} only in one" for name in sorted(here ^ there))
    for name in sorted(here & there):
        if (one / name).is_file() and comparable(one / name) != comparable(other / name):
            yield name


def planned(number: int, out: Path, lasts: float, names: list[str], draw: random.Random) -> list[Kill]:
    """When and how a trial is ended: spread over the whole duration, then again up to twice in what goes on from there."""
    share = (number + draw.random()) / 10 * lasts
    if number % 5 == 4:  # while an artifact is written, which takes too short to be met by chance
        name, later = draw.choice(names), draw.random() * 0.01
        first = [(lambda: writing(out, name, later), signal.SIGKILL)]
    elif number % 5 == 2:  # in the middle of what a checkpoint brought back
        then = draw.random() * lasts / 4
        first = [(lambda: after(share), signal.SIGTERM), (lambda: after(then), signal.SIGKILL)]
    else:
        first = [(lambda: after(share), signal.SIGKILL)]
    more = [draw.random() * lasts / 2 for _ in range(number % 3)]
    return first + [(lambda seconds=seconds: after(seconds), signal.SIGKILL) for seconds in more]


def tried(
    number: int, words: Words, place: Path, whole: Path, lasts: float, names: list[str], draw: random.Random
) -> dict:
    """One trial: where it was ended, and how its end compares. What was over before it could be killed is tried again."""
    name = f"{whole.parent.name}-{number}"
    while True:
        out = place / name / whole.name
        trial, ended, killed = Trial(words, out), [], False
        for condition, how in planned(number, out, lasts, names, draw):
            where = trial.end(condition(), how)
            if where is None:
                break
            ended.append(where)
            killed |= how == signal.SIGKILL
        if killed:
            break
        shutil.rmtree(place / name)
        lasts *= 0.7
    code = trial.finish()[0]
    found = list(unequal(whole, out))
    if code == 0 and not found:
        shutil.rmtree(place / name)
    return {"trial": name, "ended": "; ".join(ended), "starts": trial.starts, "exit code": code,
            "equal": not found and code == 0, "unequal": found}  # fmt: skip


def trials(words: Words, place: Path, name: str, numbers: list[int], draw: random.Random) -> list[dict]:
    whole = place / name / "out"  # of the same name in every trial, as a report shows it
    code, lasts = Trial(words, whole).finish()
    if code:
        sys.exit(f"{name} ended with {code}: {whole.with_suffix('.txt').read_text()}")
    stages = [stage["name"] for stage in yaml.safe_load((whole / "recipe.yaml").read_text())["stages"]]
    print(f"{name}: {lasts:.0f} s when left alone", flush=True)
    rows = []
    for number in numbers:
        rows.append(tried(number, words, place, whole, lasts, stages, draw))
        print(json.dumps(rows[-1]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=10, help="of each command")
    parser.add_argument("--folder", type=Path, help="where the runs of unequal ends are kept")
    parser.add_argument("--only", choices=("run", "make"), nargs="+", default=("run", "make"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    for name in LOADED:
        importlib.import_module(name)
    torch.set_num_threads(1)  # no thread pool may exist that a fork would break
    draw, numbers = random.Random(given.seed), list(range(given.trials))
    place = given.folder or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    net = str(place / "net")
    marrow.save(net, marrow.backbone(NET["backbone"], **{k: v for k, v in NET.items() if k != "backbone"}))
    rows = []
    if "run" in given.only:
        for workers in (0, 2):
            words = ["run", str(recipe(place / f"{workers}.yaml", workers))]
            rows += trials(words, place, f"run-{workers}-workers", numbers[workers // 2 :: 2], draw)
    if "make" in given.only:
        words = ["make", "--data", str(pictures(place / "photos")), "--student", net, "--teacher", net, "--img-size", "32",
                 "--batch", "16", "--epochs", "6", "--max-size", SHIPPED]  # fmt: skip
        rows += trials(words, place, "make", numbers, draw)
    print(table([{k: v for k, v in row.items() if k != "unequal"} for row in rows]))
    print(f"{sum(row['equal'] for row in rows)} of {len(rows)} equal")
    if given.json:
        write(given.json, rows, given.seed)
    if all(row["equal"] for row in rows) and not given.folder:
        shutil.rmtree(place)


def write(file: Path, rows: list[dict], seed: int) -> None:
    """Those of the other command, from an earlier call, stay."""
    before = json.loads(file.read_text(encoding="utf-8"))["trials"] if file.is_file() else []
    rows = [row for row in before if row["trial"] not in {r["trial"] for r in rows}] + rows
    rows.sort(key=lambda row: row["trial"])
    found = {"seed": seed, "equal": sum(row["equal"] for row in rows), "trials": rows, "versions": versions()}
    file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
