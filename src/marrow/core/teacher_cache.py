"""The files of a teacher cache: which there are, writing one whole or not at all, and reading rows of them.

A file holds the records (`cache_records.py`) of up to ROWS successive examples of a stream under one of their views, behind
a checksum. Its name says what of: a changed image gives another name, so what was stored for the old one is never read.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, Mapping, NamedTuple, Sequence

import numpy as np
from torch import Tensor

from .cache_records import Records
from .errors import MarrowError
from .source import Source

ROWS = 2048
CHECKSUM = 32  # bytes
NOWHERE = 255  # `moved` of an example that could not be read


class Shard(NamedTuple):
    """The examples start..stop of a stream, each under its view number `view`. content: a hash of theirs."""

    stream: str
    view: int
    start: int
    stop: int
    content: str

    @property
    def name(self) -> str:
        return f"{self.stream}-{self.view}-{self.start // ROWS:05}-{self.content}.rows"

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(view, index) of each row."""
        return [(self.view, index) for index in range(self.start, self.stop)]


def shards(sources: Mapping[str, Source], views: Mapping[str, int], reach: int) -> list[Shard]:
    """What is to be stored: so many views of each stream. reach: how far behind an unreadable example its substitute may lie."""
    found = []
    for stream, source in sources.items():
        count = len(source)
        fractions = np.fromiter((source.fraction(i) for i in range(count)), np.float64, count)
        for start in range(0, count, ROWS):
            stop = min(start + ROWS, count)
            content = fractions[np.arange(start, stop + reach) % count].tobytes()
            digest = hashlib.blake2b(content + repr((start, stop)).encode(), digest_size=12).hexdigest()
            found += [Shard(stream, view, start, stop, digest) for view in range(views[stream])]
    return found


def state(folder: Path, shard: Shard, records: Records) -> str:
    """Whether its file is "whole", "missing" or "damaged"."""
    with storing(folder):
        if not (folder / shard.name).is_file():
            return "missing"
        content = (folder / shard.name).read_bytes()
    size = CHECKSUM + (shard.stop - shard.start) * records.bytes
    whole = len(content) == size and content[:CHECKSUM] == _checksum(shard, memoryview(content)[CHECKSUM:])
    return "whole" if whole else "damaged"


def keep(folder: Path, shard: Shard, rows: np.ndarray) -> None:
    payload = rows.tobytes()
    with storing(folder):
        write(folder / shard.name, _checksum(shard, payload) + payload)


def write(file: Path, content: bytes) -> None:
    """Under another name first, then renamed; no fsync, since what a power cut damaged is found out."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def storing(folder: Path) -> Iterator[None]:
    """What the system says about files, in a sentence."""
    try:
        yield
    except OSError as error:
        raise MarrowError(f"the teacher's outputs cannot be stored ({error.strerror or error}); what is stored stays",
                          where=str(folder), hint="Make room, or set MARROW_CACHE to another folder.") from None  # fmt: skip


def _checksum(shard: Shard, payload: Any) -> bytes:
    digest = hashlib.blake2b(shard.name.encode(), digest_size=CHECKSUM)
    digest.update(payload)
    return digest.digest()


class Stored:
    """Reads what a teacher said: the rows of a complete cache. Every process maps the files that it meets.

    history: facts about how it came to be complete.
    """

    def __init__(self, folder: Path, records: Records, files: Sequence[Shard], views: int, history: dict[str, int]):
        self.folder, self.records, self.views, self.history = folder, records, views, history
        self._files = {(f.stream, f.view, f.start): f for f in files}
        self._maps: dict[Shard, np.memmap] = {}

    def read(self, stream: str, pairs: Sequence[tuple[int, int]], moved: Sequence[int]) -> dict[str, Tensor]:
        """The outputs (B, D) for (epoch, index) pairs. moved: how far behind its index each example was read."""
        rows = np.empty((len(pairs), self.records.bytes), np.uint8)
        for i, (epoch, index) in enumerate(pairs):
            rows[i] = self._map(self._files[stream, epoch % self.views, index - index % ROWS])[index % ROWS]
        found = rows.view(self.records.dtype)[:, 0]
        if (found["moved"] != moved).any():
            at = int((found["moved"] != moved).argmax())
            raise MarrowError(f"example {pairs[at][1]} of '{stream}' was readable when the teacher's outputs were stored "
                              "and is not now, or the other way round", where=str(self.folder),
                              hint="Delete this folder to store them anew.")  # fmt: skip
        return self.records.decode(found)

    def _map(self, shard: Shard) -> np.memmap:
        if shard not in self._maps:
            shape = (shard.stop - shard.start, self.records.bytes)
            try:
                self._maps[shard] = np.memmap(self.folder / shard.name, np.uint8, "r", CHECKSUM, shape)
            except (OSError, ValueError) as error:
                raise MarrowError(f"{shard.name} cannot be read ({error})", where=str(self.folder),
                                  hint="It was whole when the training began; start it again.") from None  # fmt: skip
        return self._maps[shard]
