"""Tar shards in the webdataset layout, read where the bytes lie."""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import IO, Any, Iterator, Sequence, cast

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.source import Source, Unreadable
from .blocks import by_blocks
from .decode import decode
from .folder import SUFFIXES
from .hashing import fraction


class Shards(Source):
    """Files `key.jpg` (or another image) with `key.cls`, or `key.json` with "label", one after another in .tar files.

    The headers are read once. Class names come from `classes.txt` or `classes.json` beside the shards, else a label is
    its own name. An epoch's order goes through the shards one after another, see `blocks`.
    """

    def __init__(self, files: Sequence[Path], where: str, labelled: bool = True):
        self._files, self._sizes = [str(f) for f in files], []
        rows: list[tuple[int, int, int]] = []  # shard, offset, bytes
        keys: list[bytes] = []
        labels: list[Any] = []
        for number, path in enumerate(self._files):
            before = len(rows)
            for key, offset, size, label in _index(path, where):
                rows.append((number, offset, size))
                keys.append(key.encode("utf-8", "replace"))
                labels.append(label)
            self._sizes.append(len(rows) - before)
        if not rows:
            raise MarrowError(f"no images in {', '.join(Path(f).name for f in self._files[:3])}", where=where)
        self._rows = np.array(rows, np.int64)
        self._keys, self._ends = b"".join(keys), np.cumsum([len(k) for k in keys])
        self._fractions = np.full(len(rows), np.nan)
        self._labels = None
        missing = sum(label is None for label in labels)
        if labelled and missing < len(labels):
            if missing:
                raise MarrowError(f"{missing} of {len(labels)} examples in the shards have no label", where=where,
                                  hint="Give 'labels: false' to use them all without.")  # fmt: skip
            names = _names(Path(self._files[0]).parent, where)
            self._labels, self.classes = _numbered(labels, names, where)

    def __len__(self) -> int:
        return len(self._rows)

    def stored(self, index: int) -> bytes:
        number, offset, size = self._rows[index].tolist()
        try:
            file = os.open(self._files[number], os.O_RDONLY)
            try:
                return os.pread(file, size, offset)
            finally:
                os.close(file)
        except OSError as error:
            raise Unreadable(self.name(index), error.strerror or str(error)) from None

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(index)
        example = {"image": decode(self.stored(index), self.name(index))}
        return example if self._labels is None else {**example, "label": int(self._labels[index])}

    def fraction(self, index: int) -> float:
        if np.isnan(self._fractions[index]):
            self._fractions[index] = fraction(self.stored(index))
        return float(self._fractions[index])

    def name(self, index: int) -> str:
        key = self._keys[self._ends[index - 1] if index else 0 : self._ends[index]].decode()
        return f"{Path(self._files[self._rows[index, 0]]).name}/{key}"

    def label(self, index: int) -> int | None:
        return None if self._labels is None else int(self._labels[index])

    def order(self, generator: torch.Generator) -> Tensor:
        return by_blocks(self._sizes, generator)


def _index(path: str, where: str) -> Iterator[tuple[str, int, int, Any]]:
    """(key, offset, bytes, label or None) of each image in a shard, in stored order."""
    current, image, label = "", None, None
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                if (key := f"{folder}/{stem}" if folder else stem) != current:
                    if image is not None:
                        yield current, *image, label
                    current, image, label = key, None, None
                if f".{suffix.lower()}".endswith(SUFFIXES):
                    image = (member.offset_data, member.size)
                elif suffix in ("cls", "json"):
                    content = cast(IO[bytes], tar.extractfile(member)).read()
                    label = _label(content, suffix, f"{Path(path).name}/{member.name}", where)
    except tarfile.TarError as error:
        raise MarrowError(f"{Path(path).name} is not a readable tar file ({error})", where=where,
                          hint="Shards are uncompressed .tar files.") from None  # fmt: skip
    if image is not None:
        yield current, *image, label


def _label(data: bytes, suffix: str, name: str, where: str) -> int | str | None:
    try:
        value = json.loads(data).get("label") if suffix == "json" else data.decode().strip()
    except (ValueError, AttributeError):
        raise MarrowError(f"{name} holds no label", where=where) from None
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d+", value) else value


def _names(folder: Path, where: str) -> list[str] | None:
    """The class names that lie beside the shards."""
    if (text := folder / "classes.txt").is_file():
        return [line for line in text.read_text(encoding="utf-8").splitlines() if line.strip()]
    if (listed := folder / "classes.json").is_file():
        try:
            names = json.loads(listed.read_text(encoding="utf-8"))
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise MarrowError("classes.json is not a list of names", where=where)
        return names
    return None


def _numbered(labels: list[Any], names: list[str] | None, where: str) -> tuple[np.ndarray, list[str]]:
    if all(isinstance(label, int) for label in labels):
        names = names or [str(i) for i in range(max(labels) + 1)]
        if min(labels) < 0 or max(labels) >= len(names):
            raise MarrowError(f"labels reach from {min(labels)} to {max(labels)}, outside 0..{len(names) - 1}", where=where,
                              hint="Give 'labels: false' to use the images without.")  # fmt: skip
        return np.array(labels, np.int32), names
    names = names or sorted({str(label) for label in labels})
    if unknown := {str(label) for label in labels} - set(names):
        raise MarrowError(f"label '{min(unknown)}' is not among the classes beside the shards", where=where)
    number = {name: i for i, name in enumerate(names)}
    return np.array([number[str(label)] for label in labels], np.int32), names
