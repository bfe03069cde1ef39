"""Data sets in which some classes are rare."""

from __future__ import annotations

import dataclasses
from typing import Callable

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.photo import PhotoView
from ..core.source import Source
from .combine import Subset


class Oversampled(Subset):
    """Every class as often as the largest: the others' examples take turns until there are as many."""

    def __init__(self, base: Source, where: str):
        members = [np.flatnonzero(_labels(base) == c) for c in range(len(counts(base, where)))]
        most = max(map(len, members))
        super().__init__(base, np.concatenate([np.resize(found, most) for found in members]))

    def order(self, generator: torch.Generator) -> Tensor:
        return Source.order(self, generator)  # in the base's order all copies of an example would follow each other


def counts(source: Source, where: str) -> list[int]:
    """Examples of each class, of which none may be empty."""
    if source.classes is None or source.label(0) is None:
        raise MarrowError("classes cannot be balanced without labels", where=where)
    found = np.bincount(_labels(source), minlength=len(source.classes)).tolist()
    if 0 in found:
        raise MarrowError(
            f"class '{source.classes[found.index(0)]}' has no example, so it cannot be balanced", where=where
        )
    return found


def _labels(source: Source) -> np.ndarray:
    return np.array([source.label(i) for i in range(len(source))], np.int64)


@dataclasses.dataclass(frozen=True)
class Turned(PhotoView):
    """A view of an object that has no up and no left: after `view`, turned by quarters (halves where the view is not square).

    With a view that mirrors at random these are the eight symmetries of the square.
    """

    view: Callable[[dict], dict]

    def __call__(self, example: dict) -> dict:
        seen = self.view(example)
        height, width = seen["image"].shape[-2:]
        quarters = int(torch.randint(4, ())) if height == width else 2 * int(torch.randint(2, ()))
        turned = {k: torch.rot90(seen[k], quarters, (-2, -1)) for k in ("image", "mask") if k in seen}
        return {**seen, **turned}
