"""Students are measured, not guessed: a ladder of small nets, timed as the files that would be shipped.

What a net answers is decided by its weights, how long it takes is not: so untrained nets are exported and timed, and the
one to train is known before anything is trained.
"""

from __future__ import annotations

import dataclasses
import statistics
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Mapping, Sequence

import torch

from ..core.exact import preserved
from ..core.models import resolve
from ..core.runtime import open_session, unit
from ..ship import graph, quantity
from ..ship.bench import take_turns
from ..ship.cpu import saturates_here
from ..ship.int8 import quantize
from .budgets import Budgets, Candidate, fitting

# Plain convolutions, the largest first: depthwise ones get slower in int8 at small sizes. On a VNNI core, widths of 36 and
# 40 gained as much from int8 as multiples of 16 did; the last rung still takes 0.75 of its fp32 time at 64 px, 1.0 at 32.
LADDER: tuple[dict[str, Any], ...] = (
    {"backbone": "resnet18"},
    {"backbone": "resnet10t"},
    {"backbone": "resnet10t", "channels": [48, 96, 192, 384], "stem_width": 24},
    {"backbone": "resnet10t", "channels": [32, 64, 128, 256], "stem_width": 32},
    {"backbone": "resnet10t", "channels": [32, 64, 128, 256], "stem_width": 16},
    {"backbone": "resnet10t", "channels": [24, 48, 96, 192], "stem_width": 16},
    {"backbone": "resnet10t", "channels": [16, 32, 64, 128], "stem_width": 16},
)
DEFAULT = LADDER[2]  # without a budget
MARGIN = 1.1  # a time measured before and one measured after the training differ by less than this
IMAGES = 8


@dataclasses.dataclass(frozen=True)
class MeasuredStudent:
    """One net's two files: median milliseconds at batch 1 in ONNX Runtime, and bytes."""

    spec: Mapping[str, Any]
    params: int
    fp32_ms: float
    int8_ms: float
    fp32_bytes: int
    int8_bytes: int

    @property
    def files(self) -> dict[str, tuple[float, int]]:
        """Milliseconds and bytes of each, the faster one first."""
        files = {"int8": (self.int8_ms, self.int8_bytes), "fp32": (self.fp32_ms, self.fp32_bytes)}
        return dict(sorted(files.items(), key=lambda file: file[1]))

    def inside(self, budgets: Budgets) -> str | None:
        """The faster of its files that are inside the latency and the size with a tenth to spare."""
        limits = Budgets(latency=budgets.latency, size=budgets.size)
        spared = [Candidate(name, MARGIN * ms, round(MARGIN * size), None) for name, (ms, size) in self.files.items()]
        return next((c.name for c in fitting(limits, spared)), None)


def measured(
    ladder: Sequence[Mapping[str, Any]] = LADDER,
    *,
    img_size: int,
    classes: int,
    threads: int = 1,
    budgets: Budgets | None = None,
    seconds: float = 0.3,
) -> list[MeasuredStudent]:
    """Export and time the nets of a ladder, the largest first, with `classes` classes each.

    budgets: only as many as it takes to find the largest inside (`fit`), by halving the ladder. seconds: of every file,
    in turns with the other file of the same net.
    """
    if budgets is None:
        return [_measured(spec, img_size, classes, threads, seconds) for spec in ladder]
    found: dict[int, MeasuredStudent] = {}
    low, high = 0, len(ladder)
    while low < high:
        middle = (low + high) // 2
        found[middle] = _measured(ladder[middle], img_size, classes, threads, seconds)
        low, high = (low, middle) if found[middle].inside(budgets) else (middle + 1, high)
    return [found[i] for i in sorted(found)]


def fit(students: Sequence[MeasuredStudent], budgets: Budgets) -> MeasuredStudent:
    """The largest with a file inside latency and size, with a tenth to spare; where there is none, the smallest."""
    inside = [s for s in students if s.inside(budgets)]
    return max(inside, key=lambda s: s.params) if inside else min(students, key=lambda s: s.params)


def reason(student: MeasuredStudent, students: Sequence[MeasuredStudent], budgets: Budgets) -> str:
    """Why it was chosen, for the report."""
    limits = [quantity.milliseconds(budgets.latency)] if budgets.latency is not None else []
    limits += [quantity.size(budgets.size)] if budgets.size is not None else []
    within, file = " and ".join(limits), student.inside(budgets)
    if file is None:
        return (f"no student tried ({len(students)}) is inside {within} with a tenth to spare; this is the smallest "
                f"({_figures(student)})")  # fmt: skip
    larger = [s for s in students if s.params > student.params]
    next_one = min(larger, key=lambda s: s.params) if larger else None
    beyond = f"; {named(next_one.spec)} is not ({_figures(next_one)})" if next_one else ""
    return (f"the largest whose {file} file is inside {within} with a tenth to spare ({_figures(student)}; measured "
            f"untrained, since weights do not change the time){beyond}")  # fmt: skip


def named(spec: Mapping[str, Any]) -> str:
    """A net in few words: "resnet10t, channels 48 to 384, stem 24"."""
    words = [str(spec["backbone"])]
    words += [f"channels {spec['channels'][0]} to {spec['channels'][-1]}"] if "channels" in spec else []
    return ", ".join(words + ([f"stem {spec['stem_width']}"] if "stem_width" in spec else []))


def _figures(student: MeasuredStudent) -> str:
    return ", ".join(f"{name} {quantity.milliseconds(ms)}, {quantity.size(size)}"
                     for name, (ms, size) in student.files.items())  # fmt: skip


def _measured(spec: Mapping[str, Any], img_size: int, classes: int, threads: int, seconds: float) -> MeasuredStudent:
    """Through the code that ships a model, but for its check: an untrained net has no answers to keep."""
    with preserved(), TemporaryDirectory() as name:
        folder = Path(name)
        files = fp32, int8 = folder / "fp32.onnx", folder / "int8.onnx"
        scratch = folder / "scratch"
        scratch.mkdir()
        task = resolve(
            {"task": "classify", "backbone": {**spec, "img_size": img_size}, "classes": classes}, {}, "student"
        )
        task = graph.for_export(task)
        graph.write(graph.trace(task), fp32, task, precision="fp32", licence="")
        images = torch.rand(IMAGES, task.input.channels, *task.input.size, generator=torch.Generator().manual_seed(0))
        quantized = quantize(fp32, scratch, [images], reduce_range=saturates_here())
        graph.write(quantized, int8, task, precision="int8", licence="")
        image = {"image": unit(images[:1])}
        runs = [partial(open_session(file, threads).run, None, image) for file in files]
        fp32_ms, int8_ms = (statistics.median(taken) for taken in take_turns(runs, rounds=3, seconds=seconds))
        params = sum(p.numel() for p in task.parameters())
        return MeasuredStudent(dict(spec), params, fp32_ms, int8_ms, fp32.stat().st_size, int8.stat().st_size)
