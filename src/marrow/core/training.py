"""One training under way: everything that a checkpoint holds, and what it comes to at the end."""

from __future__ import annotations

import dataclasses
import math
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, Callable, Iterator, Mapping

import torch
from torch import nn

from . import optim
from .checkpoint import plain
from .collate import parts_of
from .contracts import Backbone, Clock, Method, Task
from .errors import MarrowError
from .loader import Data, batch_sizes, source_of
from .loggers import Logger
from .preprocess import plain as preprocessing
from .selection import Average, Best
from .settings import Settings
from .teacher_cache import Stored
from .versions import versions
from .window import Window

# They change how fast a training goes, not where.
FREE_TO_CHANGE = ("workers", "checkpoint_seconds", "log_every")


class Training:
    """The state of one `Engine.train`: the method, its optimisers, what is kept of it, and how far it is."""

    def __init__(self, method: Method, data: Data, settings: Settings, world: int):
        self.method, self.data, self.settings, self.world = method, data, settings, world
        self.sizes = {s: n // world for s, n in batch_sizes(settings, method.streams, world).items()}
        check_apart(method, data)
        self.total = total_steps(method, data, settings)
        self.stopped = False
        self.optimizers = optim.build(method, settings)
        self._lr = {player: [(g, g["lr"]) for g in o.param_groups] for player, o in self.optimizers.items()}
        self._own = {player: [p for g in o.param_groups for p in g["params"]] for player, o in self.optimizers.items()}
        self.trained = list(dict.fromkeys(p for params in self._own.values() for p in params))
        product = method.product() if settings.ema or self.measures or data.watch else None
        if settings.ema and not isinstance(product, nn.Module):
            raise MarrowError(f"the product of {type(method).__name__} has no weights to average", where="ema")
        if data.watch and not isinstance(product, nn.Module):
            raise MarrowError(f"the product of {type(method).__name__} is no model", where=data.watch.where)
        self.product = product if isinstance(product, nn.Module) else None
        self.average = Average(self.product, settings.ema) if settings.ema and self.product else None
        self.best, self.window = Best(settings.patience), Window()
        self.stored: Stored | None = None  # what the teacher says, once it is known
        self.keys: Callable[[int], dict] = lambda step: {}  # which examples this rank sees at a step
        self.micro_batch, self.parts = settings.micro_batch, parts_of(self.sizes, settings.micro_batch)
        if self.parts > 1 and not method.per_sample:
            raise MarrowError(f"the loss of {type(method).__name__} needs the whole batch of {self.examples} at once",
                              where="micro_batch")  # fmt: skip
        first = next(iter(method.streams), None)
        self._epoch = (self.sizes[first] * world, len(data.streams[first])) if first else (0, 1)
        self.go_to(0)
        self._every = self._steps_of(settings.evaluate_percent)
        self._look_every = self._steps_of(data.watch.every_percent if data.watch else None)
        self._seen: dict[str, float] = {}  # what the probe said last

    @property
    def measures(self) -> bool:
        return self.data.val is not None and self.settings.evaluate_percent is not None

    @property
    def examples(self) -> int:
        """Of one step on this rank."""
        return sum(self.sizes.values())

    def go_to(self, step: int) -> None:
        batch, length = self._epoch
        self.step = step
        self.clock = Clock(step, step * batch // length, step / self.total, self.settings.seed)

    def _steps_of(self, percent: float | None) -> int:
        return max(1, round(self.total * (percent or 100.0) / 100.0))

    def due(self) -> bool:
        """Whether the steps done so far end with a measurement."""
        return self.measures and (self.step % self._every == 0 or self.step == self.total)

    @property
    def model(self) -> nn.Module | None:
        """What the training would leave now: the averaged weights if there are any."""
        return self.average.module if self.average else self.product

    def measured(self) -> nn.Module | None:
        """The task that is measured."""
        return self.model if isinstance(self.model, Task) else None

    def looks(self) -> bool:
        """Whether a probe looks after the steps done so far."""
        if self.data.watch is None:
            return False
        return self.step % self._look_every == 0 or self.step == self.total or self.stopped

    def look(self, engine: Any, logger: Logger | None) -> None:
        """Ask the probe about the model as it is now."""
        assert self.data.watch and self.model
        self._seen = self.data.watch.look(self.model, engine)
        if logger:
            logger.log(self.step, self._seen)

    def headline(self) -> dict[str, float]:
        """The first thing that the probe said last."""
        return dict(islice(self._seen.items(), 1))

    def set_lr(self, player: str) -> None:
        # Taken in the middle of the step, so that neither the first nor the last step has a rate of zero.
        curve = self.settings.optim[player]
        factor = optim.lr_at((self.step + 0.5) / self.total, curve.schedule, curve.warmup_percent)
        for group, base in self._lr[player]:
            group["lr"] = base * factor

    def rates(self) -> dict[str, float]:
        """The learning rate of each player's first group without its scale."""
        found = {player: o.param_groups[0] for player, o in self.optimizers.items()}
        one = len(found) == 1
        return {"lr" if one else f"{player}/lr": g["lr"] / g["scale"] for player, g in found.items()}

    def activate(self, player: str) -> None:
        """Only this player's weights take gradients."""
        if len(self._own) > 1:
            for p in self.trained:
                p.requires_grad_(False)
            for p in self._own[player]:
                p.requires_grad_(True)

    def release(self) -> None:
        for p in self.trained:
            p.requires_grad_(True)

    def drop_gradients(self) -> None:
        """As `zero_grad` of an optimiser, which also tells the profiler and so takes longer than some whole optimisers."""
        for p in self.trained:
            p.grad = None

    def cut_smaller(self) -> None:
        """Half as many examples at once."""
        most = -(-self.examples // self.parts)
        if most == 1:
            raise MarrowError("not even one example fits into the memory", where="train")
        self.micro_batch = most // 2
        self.parts = parts_of(self.sizes, self.micro_batch)

    def facts(self) -> dict[str, Any]:
        """What must not change between a checkpoint and its resume."""
        settings = {k: v for k, v in dataclasses.asdict(self.settings).items() if k not in FREE_TO_CHANGE}
        sources = {**self.data.streams, **({"val": self.data.val} if self.data.val is not None else {})}
        return plain({
            "method": type(self.method).__name__,
            "settings": settings,
            "data": {stream: source.fingerprint() for stream, source in sources.items()},
            "ranks": self.world,
            "threads": torch.get_num_threads(),
            "versions": {k: v for k, v in versions().items() if k in ("marrow", "torch")},
        })  # fmt: skip

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "stopped": self.stopped,
            "method": self.method.state_dict(),
            "optimizers": {player: optim.state(o) for player, o in self.optimizers.items()},
            "average": self.average.module.state_dict() if self.average else None,
            "best": self.best.state(),
            "window": self.window.state(),
            "micro_batch": self.micro_batch,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.go_to(state["step"])
        self.stopped = state["stopped"]
        self.method.load_state_dict(state["method"])
        for player, optimizer in self.optimizers.items():
            optim.restore(optimizer, state["optimizers"][player])
        self._lr = {player: [(g, base) for g, (_, base) in zip(o.param_groups, self._lr[player])]
                    for player, o in self.optimizers.items()}  # fmt: skip
        if self.average:
            self.average.module.load_state_dict(state["average"])
        self.best.restore(state["best"])
        self.window.restore(state["window"])
        self.micro_batch, self.parts = state["micro_batch"], parts_of(self.sizes, state["micro_batch"])

    @property
    def words(self) -> str:
        """How it ended."""
        return "done" if self.step == self.total else "stopped early" if self.stopped else f"left at step {self.step}"

    def kept(self) -> dict[str, Any]:
        """The weights that the product is to end with: the best ones, else the averaged ones, else nothing new."""
        if self.best.step is not None:
            return self.best.weights
        return self.average.module.state_dict() if self.average else {}

    def history(self, first: int, seconds: float, waited: float) -> dict[str, Any]:
        """Facts, those on speed from step `first` on."""
        best = self.best
        return {
            "steps": self.step,
            "best": None if best.step is None else (best.step, best.metric, best.value),
            "stopped_early": self.stopped and self.step < self.total,
            "micro_batch": self.micro_batch,
            "teacher_cache": self.stored.history if self.stored else None,
            "param_count": sum(p.numel() for p in self.trained),
            "seconds": seconds,
            "images_per_second": (self.step - first) * self.examples * self.world / seconds,
            "data_wait_share": waited / seconds,
        }


def total_steps(method: Method, data: Data, settings: Settings) -> int:
    """The number of optimiser steps that a duration comes to; epochs and examples count the first stream."""
    given = [k for k in ("steps", "epochs", "examples") if getattr(settings, k) is not None]
    if len(given) != 1:
        raise MarrowError(f"one of steps, epochs, examples is needed, got {', '.join(given) or 'none'}", where="train")
    if getattr(settings, given[0]) <= 0:
        raise MarrowError(f"{given[0]} {getattr(settings, given[0])} is not above 0", where=given[0])
    if settings.steps is not None:
        return settings.steps
    if not method.streams:
        raise MarrowError(f"{type(method).__name__} reads no data, so it is trained for `steps`", where=given[0])
    first = method.streams[0]
    examples = settings.examples or (settings.epochs or 0) * len(data.streams[first])
    return max(1, math.ceil(examples / batch_sizes(settings, method.streams)[first]))


def check_apart(method: Method, data: Data) -> None:
    """Raise where a picture is in two streams that the method tells apart, whatever is blended onto it."""
    first: dict[float, tuple[str, str]] = {}
    for stream in method.apart:
        source = source_of(data, stream)
        for i in range(len(source)):
            other, name = first.setdefault(source.underneath(i), (stream, source.name(i)))
            if other != stream:
                raise MarrowError(f"'{name}' of the stream '{other}' is also in '{stream}', as {source.name(i)}; "
                                  f"{type(method).__name__} learns what tells the two apart", where=f"data.{stream}",
                                  hint=f"Leave it out there: without: [the sources of {other}].")  # fmt: skip


def view_of(method: Method) -> Any:
    """The method's views, or the preprocessing of the first model it trains."""
    if (view := method.views()) is not None:
        return view
    inputs = [m.input for m in method.modules() if isinstance(m, Backbone) and m.modality == "image"]
    return preprocessing(inputs[0]) if inputs else None


@contextmanager
def prepared(method: Method, settings: Settings) -> Iterator[None]:
    """Switches of the trained backbones: gradient checkpointing, and compiling for as long as the training lasts."""
    backbones = [m for m in method.modules() if isinstance(m, Backbone)]
    for backbone in backbones:
        if settings.checkpoint_gradients and any(p.requires_grad for p in backbone.parameters()):
            backbone.checkpoint_gradients()
        if settings.compile:
            # Not the method: its clock holds numbers that change with every step, and each would be compiled anew.
            backbone.compile()
    try:
        yield
    finally:
        if settings.compile:
            for backbone in backbones:
                backbone._compiled_call_impl = None


def place(method: Method, device: torch.device, form: torch.memory_format) -> None:
    """The method on the device, weights of pictures and of clips in the memory format."""
    method.to(device)
    if form == torch.channels_last:
        for tensor in chain(method.parameters(), method.buffers()):
            if tensor.ndim in (4, 5):
                tensor.data = tensor.data.to(memory_format=form if tensor.ndim == 4 else torch.channels_last_3d)


@contextmanager
def evaluating(model: Any, device: torch.device) -> Iterator[torch.device]:
    """A module is on the device and in eval mode inside, and every part gets its own mode back; others want the CPU."""
    if not isinstance(model, nn.Module):
        yield torch.device("cpu")
        return
    model.to(device)
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield device
    finally:
        # `train` first: some nets drop what they cached for eval there.
        model.train(modes[0][1])
        for module, mode in modes:
            module.training = mode
