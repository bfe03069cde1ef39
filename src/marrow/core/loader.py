"""From sources to batches: which examples a step sees, read in the same way by any number of workers."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from .collate import collate
from .contracts import seed_from
from .errors import MarrowError
from .exact import preserved, seed_host
from .photo import PhotoView
from .settings import Settings
from .source import Source, Unreadable
from .teacher_cache import Stored
from .worker_signals import only_for_the_parent

if TYPE_CHECKING:
    from .watch import Watch

View = Callable[[dict], dict]
Keys = dict[str, list[tuple[int, int]]]  # stream -> (epoch, index) of each example

TRIES = 32  # how far the next readable example may be


@dataclasses.dataclass
class Data:
    """What a method trains on, by stream, what it is measured on, and the probe that looks on meanwhile."""

    streams: dict[str, Source] = dataclasses.field(default_factory=dict)
    val: Source | None = None
    watch: Watch | None = None


class Positions:
    """Position p of a stream is example `order(epoch)[p % n]` of epoch `p // n`: epochs follow without a gap."""

    def __init__(self, source: Source, stream: str, seed: int):
        self.source, self.stream, self.seed, self.length = source, stream, seed, len(source)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def keys(self, start: int, count: int) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while count:
            epoch, offset = divmod(start, self.length)
            taken = self._of(epoch)[offset : offset + count].tolist()
            found += [(epoch, index) for index in taken]
            start, count = start + len(taken), count - len(taken)
        return found

    def _of(self, epoch: int) -> torch.Tensor:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(seed_from(self.seed, self.stream, epoch))
            self._epoch, self._order = epoch, self.source.order(generator)
        return self._order


class Steps:
    """Yields the keys of one rank's slice of every step's batch, from a step on, without end."""

    def __init__(self, sources: dict[str, Source], sizes: dict[str, int], seed: int, start: int, rank: int, world: int):
        self.positions = {stream: Positions(source, stream, seed) for stream, source in sources.items()}
        self.sizes, self.start, self.rank, self.world = sizes, start, rank, world

    def keys(self, step: int) -> Keys:
        return {stream: positions.keys((step * self.world + self.rank) * self.sizes[stream], self.sizes[stream])
                for stream, positions in self.positions.items()}  # fmt: skip

    def __iter__(self) -> Iterator[Keys]:
        step = self.start
        while True:
            yield self.keys(step)
            step += 1


class Examples(Dataset):
    """Reads, views and collates the examples of a batch's keys.

    Every example seeds the global generators from (seed, stream, epoch, index), and they are given back after the
    batch. An unreadable one is replaced by the next readable index, or left out. Returns the batch and the reason by
    name for what could not be read; a MarrowError is returned too, because one raised in a worker loses its sentence.

    views: so many views an image has; those of later epochs repeat them. stored: what the teacher said about each, put
    into the batch as `targets`.
    """

    def __init__(self, sources: dict[str, Source], view: View | None, seed: int, replace: bool,
                 views: int | None = None, stored: Stored | None = None):  # fmt: skip
        self.sources, self.view, self.seed, self.replace = sources, view, seed, replace
        self.views, self.stored = views, stored

    def __getitems__(self, keys: Keys) -> tuple[dict[str, Any], dict[str, str]] | MarrowError:
        unreadable: dict[str, str] = {}
        batch, lost = {}, 0
        try:
            with preserved():
                for stream, pairs in keys.items():
                    read = [(pair, *e) for pair in pairs if (e := self._read(stream, *pair, unreadable))]
                    batch[stream] = collate([example for _, example, _ in read])
                    if self.stored and read:
                        found, _, moved = zip(*read)
                        batch[stream]["targets"] = self.stored.read(stream, found, moved)
                    lost += len(pairs) - sum(not moved for _, _, moved in read)
        except MarrowError as error:
            return error
        total = sum(map(len, keys.values()))
        if lost > max(1, total // 2):
            return _too_many(lost, total, unreadable)
        return batch[next(iter(batch))] if len(batch) == 1 else batch, unreadable

    def _read(self, stream: str, epoch: int, index: int, unreadable: dict[str, str]) -> tuple[dict, int] | None:
        """The viewed example and how far behind the one asked for it was found."""
        source = self.sources[stream]
        read = source.undecoded if isinstance(self.view, PhotoView) else source.__getitem__
        seed_host(seed_from(self.seed, stream, epoch % self.views if self.views else epoch, index))
        for further in range(min(TRIES, len(source)) if self.replace else 1):
            try:
                example = read((index + further) % len(source))
                return (self.view(example) if self.view else example), further
            except Unreadable as error:
                unreadable[error.name] = error.reason
        return None


class TrainBatches:
    """Endless batches of one rank: one example dict of tensors, or one a stream when there are several.

    unreadable: what could not be read so far, name -> reason. sizes: examples of this rank's batch, by stream.
    """

    def __init__(self, data: Data, streams: Sequence[str], view: View | None, settings: Settings, start_step: int = 0,
                 rank: int = 0, world: int = 1, pin: bool = False, stored: Stored | None = None):  # fmt: skip
        sources = {stream: source_of(data, stream) for stream in streams}
        self.sizes = {stream: size // world for stream, size in batch_sizes(settings, streams, world).items()}
        self.unreadable: dict[str, str] = {}
        self._where = Steps(sources, self.sizes, settings.seed, start_step, rank, world)
        steps = Steps(sources, self.sizes, settings.seed, start_step, rank, world)
        examples = Examples(sources, view, settings.seed, True, settings.cached_views, stored)
        self._loader = loader(examples, steps, settings.workers, pin)
        self._iterator = iter(self._loader)

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> dict[str, Any]:
        return _unpacked(next(self._iterator), self.unreadable)

    def keys(self, step: int) -> Keys:
        """Which examples this rank sees at a step."""
        return self._where.keys(step)


class NoBatches:
    """What a method without streams is given: an empty batch, for ever."""

    sizes: dict[str, int] = {}

    def __init__(self) -> None:
        self.unreadable: dict[str, str] = {}

    def __iter__(self) -> "NoBatches":
        return self

    def __next__(self) -> dict[str, Any]:
        return {}

    def keys(self, step: int) -> Keys:
        return {}


def train_batches(data: Data, streams: Sequence[str], view: View | None, settings: Settings, start_step: int = 0,
                  rank: int = 0, world: int = 1, pin: bool = False,
                  stored: Stored | None = None) -> TrainBatches | NoBatches:  # fmt: skip
    """The batches of one rank from a step on; they never end."""
    return TrainBatches(data, streams, view, settings, start_step, rank, world, pin, stored) if streams else NoBatches()


def batches(source: Source, view: View | None, batch: int, workers: int = 0) -> Iterator[dict[str, Any]]:
    """One ordered pass; the last batch is smaller. What cannot be read is left out, never replaced or counted twice."""
    if not len(source):
        raise MarrowError("there are no examples to go through", where="data")
    starts = range(0, len(source), batch)
    keys = (
        {"pass": [(0, i) for i in range(k, min(k + batch, len(source)))]} for k in starts
    )  # a million at once: 100 MB
    unreadable: dict[str, str] = {}
    for loaded in loader(Examples({"pass": source}, view, 0, False), keys, min(workers, len(starts)), False):
        if found := _unpacked(loaded, unreadable):
            yield found


def batch_sizes(settings: Settings, streams: Sequence[str], world: int = 1) -> dict[str, int]:
    """Examples of one step over all ranks, by stream; every rank gets an equal slice."""
    given = settings.batch
    if isinstance(given, dict) and set(given) != set(streams):
        raise MarrowError(f"a number is needed for each of the streams {sorted(streams)}, got {sorted(given)}",
                          where="data.batch")  # fmt: skip
    sizes = {stream: given[stream] if isinstance(given, dict) else given for stream in streams}
    for stream, size in sizes.items():
        if size < 1 or size % world:
            raise MarrowError(f"a batch of {size} ({stream}) cannot be shared by {world} processes.",
                              where="data.batch", hint=f"Use a multiple of {world}.")  # fmt: skip
    return sizes


def source_of(data: Data, stream: str) -> Source:
    """The source of a stream; raises when there is none or it is empty."""
    if stream not in data.streams:
        raise MarrowError(f"the method needs the stream '{stream}'; given: {', '.join(data.streams) or 'none'}",
                          where="data")  # fmt: skip
    if not len(data.streams[stream]):
        raise MarrowError(f"the stream '{stream}' has no examples", where="data")
    return data.streams[stream]


def loader(examples: Dataset, keys: Any, workers: int, pin: bool) -> DataLoader:
    """What the dataset makes of each item of `keys`, in order."""
    # A generator of its own: the loader draws its workers' base seed from it, not from the training's random numbers.
    return DataLoader(examples, batch_sampler=keys, num_workers=workers, collate_fn=_as_it_is, pin_memory=pin,
                      generator=torch.Generator(), worker_init_fn=only_for_the_parent)  # fmt: skip


def _as_it_is(loaded: Any) -> Any:
    return loaded


def _unpacked(loaded: Any, unreadable: dict[str, str]) -> dict[str, Any]:
    if isinstance(loaded, MarrowError):
        raise loaded
    unreadable.update(loaded[1])
    return loaded[0]


def _too_many(lost: int, total: int, unreadable: dict[str, str]) -> MarrowError:
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(unreadable.items())[:3])
    return MarrowError(f"{lost} of the {total} examples of a batch cannot be read ({shown})", where="data")
