"""A table of tensors as a source: data that a method made, and the embedded digits."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..core.source import Source
from ..core.table import Table
from .hashing import fraction


class TableSource(Source):
    """The rows of a table with the columns `image` and, if labelled, `label`, held in memory.

    title: how reports call the rows. content: what is hashed, if not the images themselves.
    """

    def __init__(self, table: Table, title: str, content: Tensor | None = None):
        self.table, self._title = table, title
        self._labels = table.columns["label"].tolist() if "label" in table.columns else None
        if self._labels is not None:
            self.classes = table.classes or [str(i) for i in range(max(self._labels) + 1)]
        hashed = table.columns["image"] if content is None else content
        self._fractions = np.array([fraction(row.contiguous().numpy().tobytes()) for row in hashed])

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.table[index]

    def fraction(self, index: int) -> float:
        return float(self._fractions[index])

    def name(self, index: int) -> str:
        return f"{self._title}/{index}"

    def label(self, index: int) -> int | None:
        return None if self._labels is None else self._labels[index]
