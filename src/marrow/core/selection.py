"""Which weights a training keeps: a running average of them, and the best on validation."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import MarrowError
from .wrappers import EMA


class Average:
    """An exponential average of a model's weights; its buffers are taken over as they are.

    Same arithmetic as `EMA.update`, over lists made once: walking the modules costs more than the update of a small net.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.module = EMA(model).module
        self._weight = 1.0 - decay
        self._mine, self._theirs = list(self.module.parameters()), [p.detach() for p in model.parameters()]
        self._buffers, self._their_buffers = list(self.module.buffers()), list(model.buffers())

    def update(self) -> None:
        torch._foreach_lerp_(self._mine, self._theirs, self._weight)
        for mine, theirs in zip(self._buffers, self._their_buffers):
            mine.copy_(theirs)


def deciding(rows: Sequence[Mapping[str, Any]], metric: str | None) -> Mapping[str, Any] | None:
    """The row that compares measurements: the first, or the first of a metric; None while it has no value."""
    named = [row for row in rows if metric in (None, row["metric"])]
    if rows and not named:
        known = ", ".join(dict.fromkeys(row["metric"] for row in rows))
        raise MarrowError(f"'{metric}' is not measured; known: {known}", where="select")
    return named[0] if named and named[0]["value"] is not None else None


def named(rows: Sequence[Mapping[str, Any]], labels: Sequence[str] | None) -> list[dict]:
    """The rows of a metric, those about one "class" under its name: iou of class 3 becomes iou_road, or iou_3."""
    found = []
    for row in map(dict, rows):
        if (number := row.pop("class", None)) is not None:
            row["metric"] += f"_{labels[number] if labels else number}"
        found.append(row)
    return found


def values_of(rows: Sequence[Mapping[str, Any]], mark: str) -> dict[str, float]:
    """The first value of each metric, as a log has it: its name with `mark` in front."""
    found: dict[str, float] = {}
    for row in rows:
        if row["value"] is not None:
            found.setdefault(f"{mark}{row['metric']}", float(row["value"]))
    return found


class Best:
    """The best measurement so far with its weights, and how many came after it without being better."""

    def __init__(self, patience: int | None = None):
        self.patience = patience
        self.step: int | None = None
        self.metric, self.value, self.misses = "", float("-inf"), 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, step: int, metric: str, value: float, model: nn.Module) -> None:
        """Larger is better; a NaN never is."""
        if value > self.value or self.step is None:
            self.step, self.metric, self.value, self.misses = step, metric, value, 0
            self.weights = {k: v.detach().to("cpu", copy=True) for k, v in model.state_dict().items()}
        else:
            self.misses += 1

    @property
    def exhausted(self) -> bool:
        return self.patience is not None and self.misses >= self.patience

    def state(self) -> dict[str, Any]:
        return {k: getattr(self, k) for k in ("step", "metric", "value", "misses", "weights")}

    def restore(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
