"""The losses since the last log line: kept on the device, read once a window."""

from __future__ import annotations

from typing import Mapping

import torch
from torch import Tensor

from .errors import MarrowError


class Window:
    """Rows of named 0-dim tensors, one a step.

    losses are checked for being finite; logs are only averaged. Terms may differ from step to step.
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.losses: list[dict[str, Tensor]] = []
        self.logs: list[dict[str, Tensor]] = []

    def add(self, step: int, losses: dict[str, Tensor], logs: dict[str, Tensor]) -> None:
        self.steps.append(step)
        self.losses.append(losses)
        self.logs.append(logs)

    def first_bad(self) -> tuple[int, str] | None:
        """Step and term of the first loss that is not finite; one transfer from the device unless there is one."""
        values = [v for row in self.losses for v in row.values()]
        if not values or bool(torch.isfinite(torch.stack(values).sum())):
            return None
        bad = (i for i, row in enumerate(self.losses) if not torch.isfinite(torch.stack(list(row.values())).sum()))
        return next(((self.steps[i], first_not_finite(self.losses[i])) for i in bad), None)

    def means(self) -> dict[str, float]:
        """Mean of each term over the steps that have it."""
        columns: dict[str, list[float]] = {}
        names = [name for row in (*self.losses, *self.logs) for name in row]
        for name, value in zip(names, self._flat().tolist()):
            columns.setdefault(name, []).append(value)
        return {name: sum(column) / len(column) for name, column in columns.items()}

    def state(self) -> dict:
        """As plain numbers; float32 goes through float and back unchanged."""
        values = iter(self._flat().tolist())

        def plain(rows: list[dict[str, Tensor]]) -> list[dict[str, float]]:
            return [{k: next(values) for k in row} for row in rows]

        return {"steps": list(self.steps), "losses": plain(self.losses), "logs": plain(self.logs)}

    def restore(self, state: Mapping) -> None:
        def tensors(rows: list[dict[str, float]]) -> list[dict[str, Tensor]]:
            return [{k: torch.tensor(v) for k, v in row.items()} for row in rows]

        self.steps, self.losses, self.logs = list(state["steps"]), tensors(state["losses"]), tensors(state["logs"])

    def _flat(self) -> Tensor:
        values = [v for row in (*self.losses, *self.logs) for v in row.values()]
        return torch.stack([v.float() for v in values]).cpu() if values else torch.empty(0)


def first_not_finite(losses: Mapping[str, Tensor]) -> str:
    """The name of the term that broke a sum."""
    return next((name for name, value in losses.items() if not torch.isfinite(value)), " + ".join(losses))


def not_finite(step: int, term: str, keys: Mapping[str, list[tuple[int, int]]]) -> MarrowError:
    """keys: (epoch, index) of the examples of the step's batch, by stream."""
    examples = [f"{stream} {pair}" for stream, pairs in keys.items() for pair in pairs]
    shown = ", ".join(examples[:8]) + (f" and {len(examples) - 8} more" if len(examples) > 8 else "")
    return MarrowError(f"the loss '{term}' is not finite at step {step}; its examples (epoch, index): "
                       f"{shown or 'none'}.", where="train", hint="Try a lower lr, or clip.")  # fmt: skip
