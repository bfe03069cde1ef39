"""What lies in a tar shard, by its headers."""

from __future__ import annotations

import json
import os
import re
import tarfile
from pathlib import Path
from typing import IO, Any, Iterator, NamedTuple, cast

from ..core.errors import MarrowError
from .folder import SUFFIXES

MARK = 1024  # bytes of the two empty blocks that end a tar file
LARGEST = 2**20  # bytes of a file that holds a label
MOST_CLASSES = 2**20
MASK = "mask."  # `key.mask.png` is the mask of `key.jpg`


class Sample(NamedTuple):
    """name: its key, with what the picture was called before in brackets. offset, size: where the picture's bytes lie;
    mask: where those of its mask do."""

    name: str
    offset: int
    size: int
    label: int | str | None
    mask: tuple[int, int] | None = None


def samples(path: str, where: str) -> Iterator[Sample | str]:
    """The samples of a shard in stored order; one that has no picture is the bare key.

    Raises for what is no tar file, is cut off, or holds a file twice.
    """
    shard, key, picture, mask, label, called = Path(path).name, "", None, None, None, None
    seen: set[int] = set()  # hashes of file names: a shard may hold a million
    end, length = 0, os.path.getsize(path)
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # else tarfile keeps every header
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if not member.offset_data <= end <= length:  # tarfile would seek there
                    raise MarrowError(f"{shard} is cut off inside '{member.name}'", where=where)
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                if not member.isfile() or not stem:
                    continue
                if (found := hash(member.name)) in seen:
                    raise MarrowError(f"{shard} holds '{member.name}' twice", where=where)
                seen.add(found)
                if (of := f"{folder}/{stem}" if folder else stem) != key:
                    if key:
                        yield _sample(key, picture, mask, label, called)
                    key, picture, mask, label, called = of, None, None, None, None
                if f".{suffix.lower()}".endswith(SUFFIXES):
                    place = (member.offset_data, member.size)
                    picture, mask = (picture, place) if suffix.lower().startswith(MASK) else (place, mask)
                elif suffix in ("cls", "json"):
                    if member.size > LARGEST:
                        raise MarrowError(
                            f"{shard}/{member.name} has {member.size:,} bytes, more than {LARGEST:,}", where=where
                        )
                    content = cast(IO[bytes], tar.extractfile(member)).read()
                    label, called = _facts(content, suffix, f"{shard}/{member.name}", where)
    except (tarfile.TarError, EOFError, OverflowError) as error:
        raise MarrowError(f"{shard} is not a readable tar file ({error})", where=where,
                          hint="Shards are uncompressed .tar files.") from None  # fmt: skip
    if length < end + MARK:
        raise MarrowError(f"{shard} is cut off: the two empty blocks that end a tar file are missing", where=where)
    if key:
        yield _sample(key, picture, mask, label, called)


def _sample(
    key: str, picture: tuple[int, int] | None, mask: tuple[int, int] | None, label: Any, called: str | None
) -> Sample | str:
    return key if picture is None else Sample(f"{key} ({called})" if called else key, *picture, label, mask)


def _facts(data: bytes, suffix: str, name: str, where: str) -> tuple[int | str | None, str | None]:
    """Label and name, of which a shard may have none."""
    try:
        found = json.loads(data) if suffix == "json" else {"label": data.decode().strip()}
        value, called = found.get("label"), found.get("name")
    except (ValueError, AttributeError, RecursionError):
        raise MarrowError(f"{name} holds no label", where=where) from None
    if isinstance(value, bool) or not isinstance(value, (int, str, type(None))):
        raise MarrowError(f"the label in {name} is {value!r}; a number or a text is needed", where=where)
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}", value):
        value = int(value)
    if isinstance(value, int) and value >= MOST_CLASSES:
        raise MarrowError(f"the label in {name} is {value}; numbers below {MOST_CLASSES:,} are read", where=where)
    return value, called if isinstance(called, str) else None
