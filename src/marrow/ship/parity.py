"""Does an exported file compute what its model computes? Measured on real images."""

from __future__ import annotations

import math
from typing import Any, Iterable, Mapping

import numpy as np
import torch

from ..core.contracts import Task
from ..core.runtime import Runner
from ..core.source import Source
from ..data.combine import Subset
from ..data.select import fractions


def spread(source: Source, count: int, without: Source | None = None) -> Source:
    """At most `count` examples, lowest content hash first: a sample of all classes, also of a source sorted by class.

    without: examples that must not be among them, nor copies of them.
    """
    values = fractions(source)
    order = np.argsort(values, kind="stable")
    if without is not None:
        order = order[~np.isin(values[order], fractions(without))]
    return Subset(source, order[:count])


@torch.inference_mode()
def compare(task: Task, runner: Runner, batches: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The file's outputs against the task's, over all batches.

    n: examples. max_abs: the largest difference. largest: the largest |output| of the task. sqnr_db: the signal over the
    difference, the worst output's; None when nothing differs. agreement: how often the logits have the same argmax, of a
    model that segments on how many of the pixels; None without logits.
    """
    n, same, max_abs, largest = 0, 0.0, 0.0, 0.0
    answer = next((name for name in ("logits", "logit_maps") if name in task.gives), None)
    signal: dict[str, float] = {}
    noise: dict[str, float] = {}
    for batch in batches:
        batch = {name: value.cpu() for name, value in batch.items() if name in runner.inputs}
        wanted, got = task(batch), runner(batch)
        for name, w in wanted.items():
            difference = (got[name] - w).double()
            max_abs = float(np.maximum(max_abs, difference.abs().max()))  # unlike max(), keeps NaN
            largest = max(largest, float(w.abs().max()))
            signal[name] = signal.get(name, 0.0) + float(w.double().square().sum())
            noise[name] = noise.get(name, 0.0) + float(difference.square().sum())
        if answer:
            equal = wanted[answer].argmax(1) == got[answer].argmax(1)  # (B,), or of pixels (B, H, W)
            same += float(equal.double().reshape(len(equal), -1).mean(1).sum())
        n += len(batch["image"])
    decibels = [_decibel(signal[k], noise[k]) for k in noise if noise[k] != 0]
    return {"n": n, "max_abs": max_abs, "largest": largest, "agreement": same / n if answer else None,
            "sqnr_db": float(np.min(decibels)) if decibels else None}  # fmt: skip


def _decibel(signal: float, noise: float) -> float:
    return 10 * math.log10(signal / noise) if signal else -math.inf
