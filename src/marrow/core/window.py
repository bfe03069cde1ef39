"""The losses since the last log line; what a device holds stays there and is read once a window."""

from __future__ import annotations

import math
from typing import Mapping, Sequence

import torch
from torch import Tensor

from .errors import MarrowError

Number = float | Tensor
Terms = dict[str, Number]


class Window:
    """Rows of named numbers, one a step: floats, or 0-dim tensors of a device that is not to be waited for.

    losses are checked for being finite; logs are only averaged. Terms may differ from step to step.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[Terms] = []
        self.logs: list[Terms] = []

    def add(self, step: int, losses: Terms, logs: Terms) -> None:
        self.steps.append(step)
        self.losses.append(losses)
        self.logs.append(logs)

    def first_bad(self) -> tuple[int, str] | None:
        """Step and term of the first loss that is not finite."""
        read = zip(self.steps, _read(self.losses))
        return next(((step, first_not_finite(row)) for step, row in read if not math.isfinite(sum(row.values()))), None)

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps that have it."""
        columns: dict[str, list[float]] = {}
        for row in _read([*self.losses, *self.logs]):
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        return {name: sum(column) / len(column) for name, column in columns.items()}

    def state(self) -> dict:
        """As plain numbers; float32 goes through float and back unchanged."""
        return {"steps": list(self.steps), "losses": _read(self.losses), "logs": _read(self.logs)}

    def restore(self, state: Mapping) -> None:
        self.steps, self.losses, self.logs = (list(state[k]) for k in ("steps", "losses", "logs"))


def _read(rows: Sequence[Terms]) -> list[dict[str, float]]:
    """The rows as plain numbers, in one transfer from the device."""
    held = [value.float() for row in rows for value in row.values() if isinstance(value, Tensor)]
    read = iter(torch.stack(held).tolist() if held else ())
    return [{k: next(read) if isinstance(value, Tensor) else value for k, value in row.items()} for row in rows]


def first_not_finite(losses: Mapping[str, float]) -> str:
    """The name of the term that broke a sum."""
    return next((name for name, value in losses.items() if not math.isfinite(value)), " + ".join(losses))


def not_finite(step: int, term: str, keys: Mapping[str, list[tuple[int, int]]]) -> MarrowError:
    """keys: (epoch, index) of the examples of the step's batch, by stream."""
    examples = [f"{stream} {pair}" for stream, pairs in keys.items() for pair in pairs]
    shown = ", ".join(examples[:8]) + (f" and {len(examples) - 8} more" if len(examples) > 8 else "")
    return MarrowError(f"the loss '{term}' is not finite at step {step}; its examples (epoch, index): "
                       f"{shown or 'none'}.", where="train", hint="Try a lower lr, or clip.")  # fmt: skip
