"""Filling a teacher cache before a training: every rank asks the teacher about its share of what is not stored yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from time import monotonic
from typing import Any, Callable, ContextManager, Sequence

import numpy as np
import torch
from torch import Tensor

from . import cache_key, exact
from .cache_records import Records, kinds
from .collate import move
from .errors import Interrupted, MarrowError
from .interrupt import Interrupts
from .loader import TRIES, Examples, Keys, View, loader, source_of
from .progress import Progress
from .ranks import Ranks
from .teacher_cache import NOWHERE, ROWS, Shard, Stored, keep, shards, state, storing, write
from .training import Training, view_of

Compute = Callable[[Any], dict[str, Tensor]]  # one stream's batch -> what the teacher says, float32 on the CPU

FAR = 0.05  # of its size, and an output that was stored is another: precisions and machines differ by far less


class Noted(Examples):
    """Also returns how far behind its place each example was found, NOWHERE where none was."""

    def __getitems__(self, keys: Keys) -> Any:
        self._moved: list[int] = []
        return super().__getitems__(keys), self._moved

    def _read(self, stream: str, epoch: int, index: int, unreadable: dict[str, str]) -> tuple[dict, int] | None:
        found = super()._read(stream, epoch, index, unreadable)
        self._moved.append(NOWHERE if found is None else found[1])
        return found


def filled(run: Training, root: Path | None, ranks: Ranks, device: torch.device, form: torch.memory_format,
           autocast: Callable[[], ContextManager], progress: Progress | None) -> Stored | None:  # fmt: skip
    """What the teacher says about every view that the training will see; None without a folder to keep it in.

    Stored in a folder of `root` that is named after everything that decides over it. The teacher is asked in batches of
    the size that the training would ask with, so that not a bit depends on the cache.
    """
    if run.settings.cached_views is None:
        return None
    cache_key.check(run.method)
    if root is None:
        return None

    def compute(batch: Any) -> dict[str, Tensor]:
        with torch.no_grad(), autocast():
            outputs = run.method.targets(move(batch, device, form))
        return {name: value.float().cpu() for name, value in outputs.items()}

    how = {"device": device.type, "precision": run.settings.precision, "channels_last": run.settings.channels_last}
    with exact.preserved(), Interrupts() as caught:
        return _Filling(run, root, ranks, how, compute, progress, caught).stored()


def check_room(need: int, folder: Path, views: int) -> None:
    """Raise when so many bytes are not free where the folder is."""
    if need > (free := shutil.disk_usage(folder).free):
        raise MarrowError(f"the teacher's outputs for {views} views an image take {_size(need)} more, and {_size(free)} "
                          "are free", where=str(folder),
                          hint="Lower cached_views, or set MARROW_CACHE to another folder.")  # fmt: skip


class _Filling:
    """The work of one training. It starts with a trial: the first batch tells what there is to keep, and how."""

    def __init__(self, run: Training, root: Path, ranks: Ranks, how: dict[str, Any], compute: Compute,
                 progress: Progress | None, caught: Interrupts):  # fmt: skip
        method, settings = run.method, run.settings
        self.ranks, self.compute, self.progress, self.caught = ranks, compute, progress, caught
        self.workers, self.views = settings.workers, settings.cached_views or 1
        self.sources = {stream: source_of(run.data, stream) for stream in method.streams}
        self.sizes = {stream: -(-size // run.parts) for stream, size in run.sizes.items()}
        view: View | None = view_of(method)
        self.examples = Noted(self.sources, view, settings.seed, True, self.views)
        first = method.streams[0]
        keys = self._keys(Shard(first, 0, 0, min(ROWS, len(self.sources[first])), ""))[0]
        self.trial = self._answered(keys, self.examples.__getitems__(keys))
        self.records = Records(kinds(self.trial[2]))
        about = cache_key.description(method, view, self.records.kinds, settings.seed, how)
        self.folder = root / cache_key.name_of(about)
        if ranks.lead:
            _claim(self.folder, about)
        # Only what the training comes to: half an epoch more than one needs two views, whatever cached_views is.
        epochs = {s: -(-run.total * run.sizes[s] * run.world // len(self.sources[s])) for s in self.sources}
        self.shards = shards(self.sources, {s: min(self.views, n) for s, n in epochs.items()}, TRIES)

    def stored(self) -> Stored:
        mine = self.shards[self.ranks.rank :: self.ranks.world]
        states = {s: state(self.folder, s, self.records) for s in mine}
        found = [pair for share in self.ranks.gather(list(states.items())) for pair in share]
        missing = [shard for shard, state in found if state != "whole"]
        self._announce(missing, [shard for shard, state in found if state == "damaged"])
        check_room(self._bytes(missing), self.folder, self.views)
        self._fill(missing[self.ranks.rank :: self.ranks.world])
        if self.ranks.any(self.caught.any)[0]:
            raise Interrupted("interrupted while the teacher's outputs were stored; what is stored stays, start again")
        if lost := [s.name for s in self.shards if not (self.folder / s.name).is_file()]:
            raise MarrowError(f"{lost[0]} was stored by another process and is not here; all machines need one folder",
                              where=str(self.folder))  # fmt: skip
        rows = sum(s.stop - s.start for s in missing)
        history = {"rows": sum(s.stop - s.start for s in self.shards), "asked": rows}
        stored = Stored(self.folder, self.records, self.shards, self.views, history)
        self._compare(stored)
        return stored

    def _fill(self, mine: list[Shard]) -> None:
        """Ask the teacher, batch by batch, and write each shard as soon as it is complete."""
        steps = [(shard, keys) for shard in mine for keys in self._keys(shard)]
        if not steps:
            return
        batches = iter(loader(self.examples, [keys for _, keys in steps], min(self.workers, len(steps)), False))
        began, waited, rows = monotonic(), 0.0, []
        if shown := self.progress.beside("teacher's outputs") if self.progress else None:
            shown.start(0, len(steps))
        for done, (shard, keys) in enumerate(steps, 1):
            before = monotonic()
            loaded = next(batches)
            waited += monotonic() - before
            rows.append(self._rows(*self._answered(keys, loaded)))
            if sum(map(len, rows)) >= shard.stop - shard.start:
                keep(self.folder, shard, np.concatenate(rows)[: shard.stop - shard.start])
                rows = []
            if self.caught.any:
                break
            if shown and (monotonic() >= shown.due or done == len(steps)):
                seconds = monotonic() - began
                shown.update(done, done * len(next(iter(keys.values()))) / seconds, waited / seconds, {})
        if shown:
            shown.close("left" if self.caught.any else "stored")

    def _keys(self, shard: Shard) -> list[Keys]:
        """Batches of one size: the last one goes on with the first examples, whose answers are dropped."""
        size, pairs = self.sizes[shard.stream], shard.pairs
        count = -(-len(pairs) // size)
        pairs = [pairs[i % len(pairs)] for i in range(count * size)]
        return [{shard.stream: pairs[i : i + size]} for i in range(0, len(pairs), size)]

    def _answered(self, keys: Keys, loaded: Any) -> tuple[Keys, list[int], dict[str, Tensor]]:
        result, moved = loaded
        if isinstance(result, MarrowError):
            raise result
        return keys, moved, self.compute(result[0])

    def _rows(self, keys: Keys, moved: Sequence[int], outputs: dict[str, Tensor]) -> np.ndarray:
        """A record for each key; one without an example stays empty."""
        rows, places = np.zeros(len(moved), self.records.dtype), np.array(moved)
        rows[places != NOWHERE] = self.records.encode(outputs)
        rows["moved"] = places
        return rows

    def _announce(self, missing: list[Shard], damaged: list[Shard]) -> None:
        if not self.progress:
            return
        for shard in damaged:
            self.progress.say(f"{shard.name} of the teacher's stored outputs is damaged and made again")
        self.progress.say(f"teacher's outputs ({self.records.words()}) in {self.folder}: "
                          f"{len(self.shards) - len(missing)} of {len(self.shards)} files are there, "
                          f"{_size(self._bytes(missing))} to come")  # fmt: skip

    def _bytes(self, missing: list[Shard]) -> int:
        return sum(s.stop - s.start for s in missing) * self.records.bytes

    def _compare(self, stored: Stored) -> None:
        """The teacher's answer of today to one batch against the stored one."""
        keys, moved, outputs = self.trial
        ((stream, pairs),) = keys.items()
        both = [(pair, at) for pair, at in zip(pairs, moved) if at != NOWHERE]
        now = self.records.decode(self.records.encode(outputs))
        for name, then in stored.read(stream, *zip(*both)).items():
            if (then - now[name]).norm() > FAR * now[name].norm():
                raise MarrowError(f"the stored '{name}' is not what the teacher says now", where=str(self.folder),
                                  hint="Delete this folder.")  # fmt: skip


def _claim(folder: Path, about: dict) -> None:
    """Make the folder, or see that it is what its name says."""
    file, text = folder / "about.json", json.dumps(about, indent=1, sort_keys=True).encode()
    with storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write(file, text)
        found = file.read_bytes()
    if found != text:
        raise MarrowError("its about.json is not that of this teacher, these views and this version", where=str(folder),
                          hint="Delete this folder.")  # fmt: skip


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
