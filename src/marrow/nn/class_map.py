"""From one set of classes to another, in logits."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

from ..core.errors import MarrowError


def check_class_map(class_map: Sequence[int], teacher: int, student: int, where: str) -> None:
    """Raise unless `class_map` names one of `student` classes (or -1) for each of `teacher` classes, leaving none out."""
    if len(class_map) != teacher:
        raise MarrowError(f"class_map has {len(class_map)} entries, the teacher has {teacher} outputs", where=where)
    if outside := [c for c in class_map if not -1 <= c < student]:
        raise MarrowError(f"class_map names class {outside[0]}, the student has 0..{student - 1}; "
                          "-1 drops a teacher's class", where=where)  # fmt: skip
    if left := sorted(set(range(student)) - set(class_map)):
        raise MarrowError(f"class_map gives no teacher's class to the student's class {left[0]}", where=where)


def map_logits(logits: Tensor, class_map: Tensor, classes: int) -> Tensor:
    """Logits (B, C) of a teacher -> logits (B, classes): the log of the summed exponentials of each group.

    class_map (C,) gives each column its group, -1 drops it. The softmax of the result is the teacher's posterior summed
    within the groups and normalised over what was kept.
    """
    kept = class_map >= 0
    logits, group = logits[:, kept], class_map[kept].expand(len(logits), -1)
    # Each group's own maximum, not the row's, so that a class far below the winner does not underflow to -inf.
    top = logits.new_full((len(logits), classes), -torch.inf).scatter_reduce(1, group, logits, "amax")
    return top + torch.zeros_like(top).scatter_add(1, group, (logits - top.gather(1, group)).exp()).log()
