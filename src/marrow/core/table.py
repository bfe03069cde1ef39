"""A table of tensors: what methods that produce data return, and what artifacts of kind data hold."""

from __future__ import annotations

from typing import Iterator

from torch import Tensor

from .errors import MarrowError


class Table:
    """Named columns with one length; reads like a source: `table[i]` is a dict of one example's fields.

    columns: tensors (N, ...). classes: names of the values of `label`, when there are any.
    """

    def __init__(self, columns: dict[str, Tensor], classes: list[str] | None = None):
        lengths = {k: len(v) if v.ndim else None for k, v in columns.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            raise MarrowError(f"columns of a table have one length, got {lengths}", where="table")
        # A row of no numbers takes no bytes, so a file of none could claim any length.
        if empty := [k for k, v in columns.items() if len(v) and not v.numel()]:
            raise MarrowError(f"the rows of '{empty[0]}' are empty: {tuple(columns[empty[0]].shape)}", where="table")
        self.columns, self.classes = columns, classes

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> dict:
        row: dict = {k: v[index] for k, v in self.columns.items()}
        if "label" in row:
            row["label"] = int(row["label"])
        return row

    def __iter__(self) -> Iterator[dict]:
        return (self[i] for i in range(len(self)))
