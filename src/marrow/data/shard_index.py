"""The index that stands beside shards: what is where in them, so that nothing is read when they are opened.

`index.json` lists the shards with their bytes and checksums and names the classes. `NAME.index` of a shard `NAME.tar`
holds, in the safetensors format, a number or a name for each of its samples.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from array import array
from pathlib import Path
from typing import Any, Mapping, Sequence

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ..core import plain_json
from ..core.errors import MarrowError

FILE, FORMAT = "index.json", "marrow shards 1"
LARGEST = 2**28  # bytes of index.json; a shard takes 300
MASKS = ("mask_offsets", "mask_sizes")
UNFINISHED = "writing.json"  # stands in its place until all shards are written
REPAIR = "Copy the shards again, or write them again with --to-shards; without index.json they are read as they are."


@dataclasses.dataclass(frozen=True)
class Entries:
    """Numbers of the samples of one or more shards, 52 bytes each and the text.

    offsets, sizes: (N,) of the pictures' bytes in their shard. labels: (N,), -1 without. fractions: (N,) the content
    hash, NaN where nobody has computed it. mask_offsets, mask_sizes: (N,) of the masks' bytes, the size -1 without. names:
    all in one block; ends: (N,) where each ends in it.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    fractions: np.ndarray
    mask_offsets: np.ndarray
    mask_sizes: np.ndarray
    names: bytes
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets)

    def name(self, index: int) -> str:
        return self.names[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])].decode(errors="replace")

    @classmethod
    def joined(cls, parts: Sequence[Entries]) -> Entries:
        starts = np.cumsum([0, *(len(p.names) for p in parts[:-1])])
        columns = {name: np.concatenate([getattr(p, name) for p in parts])
                   for name in ("offsets", "sizes", "labels", "fractions", *MASKS)}  # fmt: skip
        ends = np.concatenate([p.ends + start for p, start in zip(parts, starts)])
        return cls(names=b"".join(p.names for p in parts), ends=ends, **columns)


class Gathered:
    """Entries while they are being found, in a few bytes each."""

    def __init__(self) -> None:
        self._offsets, self._sizes, self._labels = array("q"), array("q"), array("i")
        self._fractions, self._names, self._ends = array("d"), bytearray(), array("q")
        self._mask_offsets, self._mask_sizes = array("q"), array("q")

    def __len__(self) -> int:
        return len(self._offsets)

    def add(self, name: str, offset: int, size: int, label: int | None = None, fraction: float = float("nan"),
            mask: tuple[int, int] | None = None) -> None:  # fmt: skip
        self._offsets.append(offset)
        self._sizes.append(size)
        self._labels.append(-1 if label is None else label)
        self._fractions.append(fraction)
        self._mask_offsets.append(mask[0] if mask else 0)
        self._mask_sizes.append(mask[1] if mask else -1)
        self._names += name.encode("utf-8", "replace")
        self._ends.append(len(self._names))

    def entries(self) -> Entries:
        offsets, sizes, labels, fractions = map(np.array, (self._offsets, self._sizes, self._labels, self._fractions))
        masks = np.array(self._mask_offsets), np.array(self._mask_sizes)
        return Entries(offsets, sizes, labels, fractions, *masks, bytes(self._names), np.array(self._ends, np.int64))


def stored(entries: Entries) -> bytes:
    """An index file; columns about masks are there where masks are."""
    masks = {name: getattr(entries, name) for name in MASKS} if (entries.mask_sizes >= 0).any() else {}
    return save({
        "offsets": entries.offsets, "sizes": entries.sizes, "labels": entries.labels, "fractions": entries.fractions,
        "names": np.frombuffer(entries.names, np.uint8), "ends": entries.ends, **masks,
    })  # fmt: skip


def index_file(shard: str) -> str:
    return f"{os.path.splitext(shard)[0]}.index"


def read(folder: Path, where: str) -> dict[str, Any] | None:
    """`index.json` of a folder of shards; None if there is none."""
    try:
        found = plain_json.read(folder / FILE, where, LARGEST)
    except (FileNotFoundError, NotADirectoryError):
        if (folder / UNFINISHED).exists():
            raise MarrowError("the shards are not all written yet", where=where,
                              hint="Give the command with --to-shards again; it goes on where it stopped.") from None  # fmt: skip
        return None
    except MarrowError as error:
        raise MarrowError(f"{FILE} beside the shards is damaged ({error.message})", where=where, hint=REPAIR) from None
    names = found.get("classes") if isinstance(found, dict) else None
    of_masks = found.get("mask_classes") if isinstance(found, dict) else None
    if not (_named(names) and _named(of_masks) and is_list_of_shards(found) and found.get("format") == FORMAT):
        raise MarrowError(f"{FILE} beside the shards is none of '{FORMAT}'", where=where, hint=REPAIR)
    return found


def _named(names: Any) -> bool:
    """Whether these are names of classes, or none."""
    listed = isinstance(names, list) and all(isinstance(n, str) for n in names)
    return names is None or (listed and len(set(names)) == len(names))


def is_list_of_shards(found: Any) -> bool:
    """Whether what `index.json` or `writing.json` holds lists shards as they are written."""
    shards = found.get("shards") if isinstance(found, dict) else None
    return isinstance(shards, dict) and all("/" not in name and _listed(facts) for name, facts in shards.items())


def _listed(facts: Any) -> bool:
    wanted = {"bytes": int, "sha256": str, "examples": int, "index": str}
    return isinstance(facts, dict) and all(type(facts.get(k)) is kind for k, kind in wanted.items())


def check(files: Sequence[Path], shards: Mapping[str, Any], where: str) -> None:
    """Raise for shards that are missing, doubled or not as long as they were."""
    folder = files[0].parent
    lost = [name for name in shards if not (folder / name).is_file()]
    if lost:
        raise MarrowError(f"{_some(lost)} of {len(shards)} shards {'is' if len(lost) == 1 else 'are'} missing",
                          where=where, hint=REPAIR)  # fmt: skip
    foreign = [f.name for f in files if f.name not in shards]
    if foreign:
        raise MarrowError(f"{_some(foreign)} {'is' if len(foreign) == 1 else 'are'} not among the shards that {FILE} "
                          "lists, and may be a copy of one", where=where, hint=REPAIR)  # fmt: skip
    for file in files:
        if (have := file.stat().st_size) != (want := shards[file.name]["bytes"]):
            raise MarrowError(f"{file.name} has {have:,} bytes, not the {want:,} that {FILE} lists: it was "
                              f"{'cut off' if have < want else 'changed'}", where=where, hint=REPAIR)  # fmt: skip


def entries_of(file: Path, facts: Mapping[str, Any], where: str) -> Entries:
    """The index of one shard, if it is whole and speaks of what lies in the shard."""
    path = file.parent / index_file(file.name)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MarrowError(f"{path.name} cannot be read ({error.strerror})", where=where, hint=REPAIR) from None
    if hashlib.sha256(content).hexdigest() != facts["index"]:
        raise MarrowError(f"{path.name} is damaged: its checksum is not that in {FILE}", where=where, hint=REPAIR)
    try:
        found = load(content)
        count = len(found["offsets"])
        masks = {"mask_offsets": np.zeros(count, np.int64), "mask_sizes": np.full(count, -1), **found}
        entries = Entries(found["offsets"], found["sizes"], found["labels"], found["fractions"],
                          masks["mask_offsets"], masks["mask_sizes"], found["names"].tobytes(), found["ends"])  # fmt: skip
    except (SafetensorError, KeyError) as error:
        raise MarrowError(f"{path.name} is no index of a shard ({error})", where=where, hint=REPAIR) from None
    if not _fits(entries, facts["examples"], facts["bytes"]):
        raise MarrowError(f"{path.name} speaks of other samples than {file.name} holds", where=where, hint=REPAIR)
    return entries


def _fits(entries: Entries, count: int, size: int) -> bool:
    """Whether every picture lies inside a shard of this size, every name inside the text, every fraction below 1."""
    kinds = {"offsets": "i", "sizes": "i", "labels": "i", "ends": "i", "fractions": "f", **dict.fromkeys(MASKS, "i")}
    if any((column := getattr(entries, name)).shape != (count,) or column.dtype.kind != k for name, k in kinds.items()):
        return False
    places = np.concatenate([[0], entries.ends, [len(entries.names)]])
    offsets, sizes, fractions = entries.offsets, entries.sizes, entries.fractions
    held = entries.mask_sizes >= 0
    inside = all(((o >= 0) & (s >= 0) & (s <= size) & (o <= size - s)).all()  # a sum could overflow
                 for o, s in ((offsets, sizes), (entries.mask_offsets[held], entries.mask_sizes[held])))  # fmt: skip
    return bool((np.diff(places) >= 0).all() and inside
                and (np.isnan(fractions) | ((fractions >= 0) & (fractions < 1))).all())  # fmt: skip


def changed(folder: Path) -> list[str]:
    """The shards whose content is not what the index lists, by reading all of it; none where there is no index."""
    listed = (read(folder, "data") or {"shards": {}})["shards"]
    return [name for name, facts in listed.items() if _checksum(folder / name) != facts["sha256"]]


def _checksum(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
