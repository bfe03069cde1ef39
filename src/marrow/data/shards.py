"""Tar shards in the webdataset layout, read where the bytes lie."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core import plain_json
from ..core.errors import MarrowError
from ..core.source import Skipped, Source, Unreadable
from . import shard_index
from .blocks import by_blocks
from .decode import decode, decode_ids, undecoded
from .hashing import fraction
from .shard_index import Entries, Gathered
from .tar_scan import Sample, samples


class Shards(Source):
    """Files `key.jpg` (or another image) with `key.cls`, or `key.json` with "label", one after another in .tar files; the
    mask is `key.mask.png`.

    With an index beside them, as `write_shards` makes it, nothing is read on opening and splits keep their content;
    else the headers are read once. Class names come from the index, `classes.txt` or `classes.json` beside the shards,
    else a label is its own name. An epoch's order goes through the shards one after another, see `blocks`.
    """

    def __init__(self, files: Sequence[Path], where: str, labelled: bool = True):
        self._files, folder = [str(f) for f in files], Path(files[0]).parent
        self._skipped: tuple[Skipped, ...] = ()
        listed = shard_index.read(folder, where)
        if listed is not None:
            shard_index.check(files, listed["shards"], where)
            parts = [shard_index.entries_of(Path(f), listed["shards"][Path(f).name], where) for f in files]
            names, self.mask_classes = listed["classes"], listed.get("mask_classes")
        else:
            parts, labels = self._scanned(where)
            names = None
            if labelled and any(label is not None for label in labels):
                numbers, names = _numbered(labels, _names(folder, where), where)
                starts = np.cumsum([len(p) for p in parts])[:-1]
                for part, found in zip(parts, np.split(numbers, starts)):
                    part.labels[:] = found
        self._shard_ends = np.cumsum([len(p) for p in parts])
        self._entries = Entries.joined(parts)
        if not len(self):
            raise MarrowError(f"no images in {', '.join(Path(f).name for f in self._files[:3])}", where=where)
        unmasked = int((self._entries.mask_sizes < 0).sum())
        if 0 < unmasked < len(self):
            raise MarrowError(f"{unmasked} of {len(self)} examples in the shards have no mask", where=where,
                              hint="Add their masks, or take all of them out.")  # fmt: skip
        self._masked = not unmasked
        missing = int((self._entries.labels < 0).sum())
        if labelled and names and missing < len(self):
            if missing:
                raise MarrowError(f"{missing} of {len(self)} examples in the shards have no label", where=where,
                                  hint="Give 'labels: false' to use them all without.")  # fmt: skip
            if int(self._entries.labels.max()) >= len(names):
                raise MarrowError(f"the index knows {len(names)} classes, and a label is {self._entries.labels.max()}",
                                  where=where, hint=shard_index.REPAIR)  # fmt: skip
            self.classes = names

    def _scanned(self, where: str) -> tuple[list[Entries], list[Any]]:
        """The entries of each shard, without labels, and the labels as they are written."""
        parts, labels, bare = [], [], []
        known: dict[int, str] = {}
        for path in self._files:
            found = Gathered()
            for sample in samples(path, where):
                if isinstance(sample, Sample):
                    found.add(sample.name, sample.offset, sample.size, mask=sample.mask)
                    labels.append(sample.label)
                else:
                    bare.append(f"{Path(path).name}/{sample}")
            parts.append(found.entries())
            looks = (parts[-1].names, parts[-1].offsets.tobytes())
            if len(parts[-1]) and (twin := known.setdefault(hash(looks), path)) != path:
                raise MarrowError(f"{Path(path).name} holds the same samples as {Path(twin).name}", where=where,
                                  hint="Keep one of the two.")  # fmt: skip
        if bare:
            self._skipped = (Skipped(str(Path(self._files[0]).parent), "samples without an image", len(bare),
                                     tuple(bare[:3])),)  # fmt: skip
        return parts, labels

    def __len__(self) -> int:
        return len(self._entries)

    def _shard(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._files[int(np.searchsorted(self._shard_ends, index, side="right"))]

    def stored(self, index: int) -> bytes:
        return self._read(index, int(self._entries.offsets[index]), int(self._entries.sizes[index]))

    def stored_mask(self, index: int) -> bytes | None:
        if not self._masked:
            return None
        return self._read(index, int(self._entries.mask_offsets[index]), int(self._entries.mask_sizes[index]))

    def _read(self, index: int, offset: int, size: int) -> bytes:
        path = self._shard(index)
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                content = os.pread(file, size, offset)
            finally:
                os.close(file)
        except OSError as error:
            raise Unreadable(self.name(index), error.strerror or str(error)) from None
        if len(content) < size:
            raise Unreadable(self.name(index), "the shard ends before it")
        return content

    def __getitem__(self, index: int) -> dict:
        return self._example(index, decode)

    def undecoded(self, index: int) -> dict:
        return self._example(index, undecoded)

    def _example(self, index: int, read: Callable[[bytes, str], Any]) -> dict:
        name = self.name(index)
        example = {"image": read(self.stored(index), name)}
        if (mask := self.stored_mask(index)) is not None:
            example["mask"] = decode_ids(mask, name)
        return example if self.classes is None else {**example, "label": int(self._entries.labels[index])}

    def fraction(self, index: int) -> float:
        found = self._entries.fractions
        if np.isnan(found[index]):
            found[index] = fraction(self.stored(index))
        return float(found[index])

    def name(self, index: int) -> str:
        return f"{os.path.basename(self._shard(index))}/{self._entries.name(index)}"

    def label(self, index: int) -> int | None:
        return None if self.classes is None else int(self._entries.labels[index])

    def skipped(self) -> tuple[Skipped, ...]:
        return self._skipped

    def order(self, generator: torch.Generator) -> Tensor:
        return by_blocks(np.diff(self._shard_ends, prepend=0).tolist(), generator)


def _names(folder: Path, where: str) -> list[str] | None:
    """The class names that lie beside the shards."""
    if (text := folder / "classes.txt").is_file():
        try:
            lines = text.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise MarrowError("classes.txt is no text in UTF-8", where=where) from None
        return _distinct([line for line in lines if line.strip()], text.name, where)
    if (listed := folder / "classes.json").is_file():
        return _distinct(plain_json.read(listed, where, plain_json.LARGEST_META), listed.name, where)
    return None


def _distinct(names: Any, file: str, where: str) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names) or len(set(names)) < len(names):
        raise MarrowError(f"{file} is not a list of names, each once", where=where)
    return names


def _numbered(labels: list[Any], names: list[str] | None, where: str) -> tuple[np.ndarray, list[str]]:
    """Labels as positions in the list of names, -1 for None, and the names."""
    given = {label for label in labels if label is not None}
    if all(isinstance(label, int) for label in given):
        names = names or [str(i) for i in range(max(given) + 1)]
        if min(given) < 0 or max(given) >= len(names):
            raise MarrowError(f"labels reach from {min(given)} to {max(given)}, outside 0..{len(names) - 1}", where=where,
                              hint="Give 'labels: false' to use the images without.")  # fmt: skip
        return np.array([-1 if label is None else label for label in labels], np.int32), names
    names = names or sorted({str(label) for label in given})
    if unknown := {str(label) for label in given} - set(names):
        raise MarrowError(f"label '{min(unknown)}' is not among the classes beside the shards", where=where)
    number = {None: -1} | {name: i for i, name in enumerate(names)}
    return np.array([number[None if label is None else str(label)] for label in labels], np.int32), names
