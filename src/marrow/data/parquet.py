"""Parquet files in the Hugging Face image layout."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.source import Source, Unreadable
from .blocks import by_blocks
from .decode import decode, decode_ids, undecoded
from .hashing import fraction
from .parquet_schema import Schema, is_text, opened, reading

RESIDENT = 512 * 2**20
BLOCK = 1024  # examples of larger files shuffled among each other; the row groups they lie in stay in memory


class Parquet(Source):
    """Columns `image` (struct{bytes, path} or binary), `label` (class number or text) or none, `mask` (class ids).

    A text column `name`, else the `path` of the images, is what a row is called beside its number. Numbers and texts in
    other columns become fields; columns of other types are not read. Class names stand in the schema; without them they
    are the distinct labels of `files` and `siblings`, the files of the other splits.
    Up to `resident` bytes stay in memory once read; of larger files some row groups do, and an epoch's order goes
    through the row groups one after another, see `blocks`.
    """

    def __init__(
        self,
        files: Sequence[Path],
        where: str,
        labelled: bool = True,
        siblings: Sequence[Path] = (),
        resident: int = RESIDENT,
    ):
        self._files, groups, schemas, size = [str(f) for f in files], [], [], 0
        for number, path in enumerate(self._files):
            file = opened(path, where)
            schemas.append(Schema(file.schema_arrow, Path(path).name, where, labelled))
            for g in range(file.num_row_groups):
                groups.append((number, g, file.metadata.row_group(g).num_rows))
                size += file.metadata.row_group(g).total_byte_size
            if (rows := file.metadata.num_rows) > 8 * (held := Path(path).stat().st_size):  # not even a bit a row
                raise MarrowError(f"{Path(path).name} claims {rows:,} rows in {held:,} bytes", where=where)
        if any(s != schemas[0] for s in schemas):
            raise MarrowError(f"the columns or class names of {', '.join(Path(f).name for f in self._files[:3])} differ",
                              where=where)  # fmt: skip
        self._schema = schemas[0]
        self._groups = [g for g in groups if g[2]]
        self._ends = np.cumsum([rows for _, _, rows in self._groups])
        self._names = [Path(f).name for f in self._files]
        self._first = [sum(rows for n, _, rows in self._groups if n < number) for number in range(len(self._files))]
        if not self._groups:
            raise MarrowError(f"no rows in {', '.join(Path(f).name for f in self._files[:3])}", where=where)
        reach = BLOCK * len(self._groups) // len(self) + 2
        self._kept_groups = len(self._groups) if size <= resident else min(reach, len(self._groups))
        self._kept: dict[int, dict[str, Any]] = {}
        self._fractions = np.full(len(self), np.nan)
        called = {s.own for s in schemas}
        self._own = _column(self._files, called.pop()) if len(called) == 1 else None
        self._labels = None
        if labelled and self._schema.label:
            values = _labels(self._files, where)
            names = self._schema.names or None
            if names is None or values.dtype.kind == "O":
                values, self.classes = _numbered(values, [_labels([str(s) for s in siblings], where)])
            else:
                self.classes = names
            self._check(values, where)
            self._labels = values

    def _check(self, labels: np.ndarray, where: str) -> None:
        wrong = np.flatnonzero((labels < 0) | (labels >= len(self.classes or [])))
        if len(wrong):
            raise MarrowError(f"row {wrong[0]} has label {labels[wrong[0]]}, outside 0..{len(self.classes or []) - 1} "
                              f"({len(wrong)} such rows)", where=where, hint="Give 'labels: false' to use it without.")  # fmt: skip

    def __len__(self) -> int:
        return int(self._ends[-1])

    def _at(self, index: int) -> tuple[int, int]:
        """(row group, row in it)."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, index - (int(self._ends[group - 1]) if group else 0)

    def _group(self, group: int) -> dict[str, Any]:
        """The columns of a row group; the last used ones stay in memory."""
        kept = self._kept.pop(group, None)
        if kept is None:
            number, inner, _ = self._groups[group]
            # One thread: this also runs in forked workers, where arrow's pool does not live.
            with reading(self._names[number], "data"):
                table = opened(self._files[number], "data").read_row_group(inner, self._schema.read, use_threads=False)
                table.validate(full=True)  # texts that are none, among others
            table = table.flatten()
            kept = {c.removesuffix(".bytes"): table[c].combine_chunks() for c in table.column_names}
            while len(self._kept) >= self._kept_groups:
                del self._kept[next(iter(self._kept))]
        self._kept[group] = kept
        return kept

    def __getitem__(self, index: int) -> dict:
        return self._example(index, decode)

    def undecoded(self, index: int) -> dict:
        return self._example(index, undecoded)

    def _example(self, index: int, read: Callable[[bytes, str], Any]) -> dict:
        group, row = self._at(index)
        values = {name: column[row].as_py() for name, column in self._group(group).items()}
        name = self.name(index)
        example: dict[str, Any] = {"image": read(_bytes(values.pop("image"), name), name)}
        if self._schema.mask:
            example["mask"] = decode_ids(_bytes(values.pop("mask"), name), name)
        if self._labels is not None:
            example["label"] = int(self._labels[index])
        return {**values, **example}

    def stored(self, index: int) -> bytes:
        group, row = self._at(index)
        return _bytes(self._group(group)["image"][row].as_py(), self.name(index))

    def stored_mask(self, index: int) -> bytes | None:
        if not self._schema.mask:
            return None
        group, row = self._at(index)
        return self._group(group)["mask"][row].as_py() or b""

    def fraction(self, index: int) -> float:
        if np.isnan(self._fractions[index]):
            group, row = self._at(index)
            start = index - row
            column = self._group(group)["image"]
            for i in range(len(column)):  # a row group at once: the next questions are about its other rows
                self._fractions[start + i] = fraction(column[i].as_py() or b"")
        return float(self._fractions[index])

    def name(self, index: int) -> str:
        number = self._groups[self._at(index)[0]][0]
        own = self._own[index].as_py() if self._own is not None else None
        return f"{self._names[number]}/{index - self._first[number]}" + (f" ({_short(own)})" if own else "")

    def label(self, index: int) -> int | None:
        return None if self._labels is None else int(self._labels[index])

    def order(self, generator: torch.Generator) -> Tensor:
        if self._kept_groups == len(self._groups):
            return super().order(generator)
        return by_blocks([rows for _, _, rows in self._groups], generator, BLOCK)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_kept": {}}  # workers read for themselves


def _column(files: Sequence[str], column: str | None) -> Any:
    """A text column of all files, or a text inside a struct, without what stands beside it; None without a name."""
    if column is None:
        return None
    import pyarrow

    columns = []
    for path in files:
        with reading(Path(path).name, "data"):
            table = opened(path, "data").read([column], use_threads=False).flatten()
            table.validate(full=True)
        columns.append(table[column].cast(pyarrow.string()))
    return pyarrow.chunked_array([chunk for found in columns for chunk in found.chunks], pyarrow.string())


def _short(path: str) -> str:
    """A path on the disk of whoever wrote the file is nobody's business, and neither is its length."""
    return path if not path.startswith(("/", "\\")) and ":" not in path else re.split(r"[/\\]", path)[-1]


def _labels(files: Sequence[str], where: str) -> np.ndarray:
    """The label column of some files: int64, or text as objects."""
    import pyarrow.types as types

    columns = [np.empty(0, np.int64)]
    for path in files:
        file = opened(path, where)
        if "label" not in file.schema_arrow.names:  # a test split without labels
            continue
        with reading(Path(path).name, where):
            column = file.read(["label"], use_threads=False)["label"]
            column.validate(full=True)
        if column.null_count:
            raise MarrowError(f"{column.null_count} rows of {Path(path).name} have no label", where=where,
                              hint="Give 'labels: false' to use it without.")  # fmt: skip
        if not (types.is_integer(column.type) or is_text(column.type)):
            raise MarrowError(f"column 'label' of {Path(path).name} is {column.type}; integer or string is needed",
                              where=where)  # fmt: skip
        values = column.to_numpy()
        columns.append(values if values.dtype.kind == "O" else values.astype(np.int64))
    kinds = {values.dtype.kind for values in columns[1:]}
    if len(kinds) > 1:
        raise MarrowError("the labels of some files are numbers and those of others texts", where=where)
    return np.concatenate(columns)


def _numbered(values: np.ndarray, others: list[np.ndarray]) -> tuple[np.ndarray, list[str]]:
    """Labels as positions in the sorted list of the distinct ones, and their names."""
    distinct = sorted({v for part in (values, *others) for v in part.tolist()})
    number = {v: i for i, v in enumerate(distinct)}
    return np.array([number[v] for v in values.tolist()], np.int64), [str(v) for v in distinct]


def _bytes(value: bytes | None, name: str) -> bytes:
    if value is None:
        raise Unreadable(name, "the row holds no image bytes")
    return value
