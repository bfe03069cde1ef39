"""The one training loop, on Lightning Fabric; and what else runs models over data."""

from __future__ import annotations

import dataclasses
import math
from contextlib import nullcontext
from functools import reduce
from itertools import chain
from pathlib import Path
from time import monotonic
from typing import Any, Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from . import checkpoint, checkpoint_check, exact, memory
from .cache_fill import filled
from .collate import move, split
from .contracts import Input, Method, seed_from
from .errors import Interrupted
from .interrupt import Interrupts
from .launch import join
from .loader import Data, View, batches, train_batches
from .loggers import CsvLogger, Logger, TensorBoardLogger
from .preprocess import plain
from .progress import Progress, against_waiting
from .ranks import Ranks
from .selection import deciding, named, values_of
from .settings import Settings
from .source import Source
from .training import Training, evaluating, place, prepared, view_of
from .window import Number, Terms, Window, first_not_finite, not_finite


class Engine:
    """Trains methods, evaluates tasks, and spreads work over processes.

    device: "auto", "cpu" or "cuda". devices: the processes on this machine, which a launcher has started; how many
    machines there are is in the launcher's environment. checkpoint: the file that holds a training while it runs;
    `resume` goes on from it where it exists, and a change of settings, data, threads or versions since then is refused
    unless `allow_changed`. cache: the folder for what teachers say with `cached_views`; without one they are asked at
    every step. history: facts about the last training.
    """

    def __init__(self, settings: Settings = Settings(), *, device: str = "auto", devices: int = 1,
                 logger: Logger | None = None, checkpoint: Path | None = None, progress: Progress | None = None,
                 resume: bool = False, allow_changed: bool = False, cache: Path | None = None):  # fmt: skip
        self._fabric = join(settings.precision, device, devices)
        self.device, self._host = self._fabric.device, self._fabric.device.type == "cpu"
        self._ranks = Ranks(self._fabric.global_rank, self._fabric.world_size, self.device)
        lead = self._ranks.lead
        self.settings, self.logger, self.progress = settings, logger if lead else None, progress if lead else None
        self._devices, self._checkpoint, self._resume, self._allow_changed = devices, checkpoint, resume, allow_changed
        self._precision = self._fabric.strategy.precision  # asked itself: the strategy only passes the calls on
        self._autocast = nullcontext if settings.precision == "32-true" else self._fabric.autocast
        # Reading a number from a device would wait for all that it has still to do.
        self._kept: Callable[[Tensor], Number] = Tensor.item if self._host else Tensor.detach
        self._form = torch.channels_last if settings.channels_last else torch.preserve_format
        self._trainings, self.cache = 0, cache
        self.history: dict[str, Any] = {}

    def with_(self, **changes: Any) -> "Engine":
        """An engine with other settings on the same device, without checkpoint and logger: for use inside `fit`."""
        return Engine(dataclasses.replace(self.settings, **changes), device=self.device.type, devices=self._devices,
                      progress=self.progress, cache=self.cache)  # fmt: skip

    def train(self, method: Method, data: Data) -> None:
        """Train in place; afterwards the method's product has the weights that are kept."""
        # Every training of one engine has a file of its own: a `fit` with several is resumed in any of them.
        path, self._trainings = checkpoint.numbered(self._checkpoint, self._trainings), self._trainings + 1
        with exact.preserved(), prepared(method, self.settings):
            exact.seed_all(seed_from(self.settings.seed, "train", self._ranks.rank))
            place(method, self.device, self._form)
            method.train()
            run = Training(method, data, self.settings, self._ranks.world)
            saved = checkpoint.read(path) if path and self._resume and path.exists() else {}
            if path and saved:
                self._restore(run, saved, path)
            try:
                self._loop(run, path, saved)
            finally:
                run.release()
                if self.progress:
                    self.progress.close(run.words)
            if run.product and (kept := run.kept()):
                run.product.load_state_dict(self._fabric.broadcast(kept) if self._ranks.world > 1 else kept)

    def _loop(self, run: Training, path: Path | None, saved: dict) -> None:
        s, progress, ranks, first, waited, shown = self.settings, self.progress, self._ranks, run.step, 0.0, {}
        if run.looks() and not saved:  # what the probe lacks is told now, not after hours
            run.look(self.with_(), self.logger)
        run.stored = filled(run, self.cache, ranks, self.device, self._form, self._autocast, progress)
        stream = train_batches(run.data, run.method.streams, view_of(run.method), s, first, ranks.rank, ranks.world,
                               self.device.type == "cuda", run.stored)  # fmt: skip
        run.keys = stream.keys
        stream.unreadable.update(saved.get("unreadable", {}))
        items: Iterator = iter(stream)
        module: nn.Module = run.method
        if ranks.world > 1 and first < run.total:
            batch = next(items)
            items, module = chain([batch], items), self._distributed(run, self._moved(batch))
        if saved:  # only now: the workers and the trial above are behind us
            exact.restore(saved["rng"][min(ranks.rank, len(saved["rng"]) - 1)])
        if progress:
            progress.start(first, run.total, against_waiting(s.workers, self.device.type))
        facts = run.facts() if path else {}
        began = monotonic()
        write_at = began + s.checkpoint_seconds
        with Interrupts() if path else nullcontext(Interrupts()) as caught:
            while run.step < run.total and not run.stopped:
                before = monotonic()
                batch = next(items)
                waited += monotonic() - before
                self._step(run, module, self._moved(batch))
                run.go_to(run.step + 1)
                logged = run.step % s.log_every == 0 or run.step == run.total
                if logged:
                    shown = self._log(run)
                if run.due():
                    self._measure(run)
                if run.looks():
                    run.look(self.with_(), self.logger)
                now = monotonic()
                if progress and (now >= progress.due or run.step == run.total):
                    rate = (run.step - first) * run.examples * ranks.world / (now - began)
                    progress.update(run.step, rate, waited / (now - began), shown | run.headline())
                if path and (ranks.world == 1 or logged):
                    stop, write = ranks.any(caught.any, caught.any or now >= write_at)
                    if write:
                        self._save(run, path, facts, stream)
                        write_at = monotonic() + s.checkpoint_seconds
                    if stop:
                        raise Interrupted(f"interrupted after step {run.step} of {run.total}; go on with --resume")
        if run.window.steps:
            self._log(run)
        seconds = monotonic() - began
        if path and run.step > first:
            # The last state too: a run killed before its result is saved, or in a later training, comes back to it.
            self._save(run, path, facts, stream)
        self.history = run.history(first, seconds, waited) | {"unreadable": len(stream.unreadable)}

    def _step(self, run: Training, module: nn.Module, batch: Any) -> None:
        """One step of every player, then the method's own update and the average's."""
        several, terms, notes = len(run.optimizers) > 1, Terms(), Terms()
        for player, optimizer in run.optimizers.items():
            run.activate(player)
            run.set_lr(player)
            losses, logs = self._gradients(run, module, batch, player)
            if self.settings.clip is not None:
                clip = self._fabric.strategy.clip_gradients_norm
                logs["grad_norm"] = self._kept(clip(module, optimizer, self.settings.clip, error_if_nonfinite=False))
            self._precision.optimizer_step(optimizer)
            run.drop_gradients()
            terms |= {f"{player}/{k}": v for k, v in losses.items()} if several else losses
            notes |= {f"{player}/{k}": v for k, v in logs.items()} if several else logs
        run.method.after_step(run.clock)
        if run.average:
            run.average.update()
        run.window.add(run.step, terms, notes)

    def _gradients(self, run: Training, module: nn.Module, batch: Any, player: str) -> tuple[Terms, Terms]:
        """As `_accumulate`; where the memory does not suffice, again with smaller parts and the same random numbers."""
        while True:
            # torch's generators only; a method that draws from numpy or random inside forward draws anew.
            drawn = exact.torch_state()
            try:
                return self._accumulate(run, module, batch, player)
            except torch.OutOfMemoryError:
                pass  # handled outside: the exception would keep the step's tensors alive
            exact.restore_torch(drawn)
            memory.clear(run)
            if self._ranks.world > 1 or not run.method.per_sample:
                fits = memory.largest(lambda part: self._accumulate(run, run.method, part, player), run, batch)
                raise memory.too_large(run, fits * self._ranks.world)
            self._cut(run)

    def _accumulate(self, run: Training, module: nn.Module, batch: Any, player: str) -> tuple[Terms, Terms]:
        """Forward and backward over the parts of a batch; every part counts by its share of the examples."""
        if run.parts == 1:
            return self._backward(run, module, batch, player, 1.0)
        losses, logs = Terms(), Terms()
        for number, (part, share) in enumerate(split(batch, run.sizes, run.parts), 1):
            apart = number < run.parts and isinstance(module, DistributedDataParallel)
            with module.no_sync() if apart else nullcontext():
                found = self._backward(run, module, part, player, share)
            for sums, values in zip((losses, logs), found):
                for name, value in values.items():
                    sums[name] = sums[name] + value * share if name in sums else value * share
        return losses, logs

    def _backward(self, run: Training, module: nn.Module, batch: Any, player: str, share: float) -> tuple[Terms, Terms]:
        with self._autocast():
            step = module(batch, run.clock, player)
        # In float32: under autocast a loss may come as bfloat16, and sums of many lose their small terms.
        losses = {name: loss.float() for name, loss in step.losses.items()}
        total = reduce(torch.add, losses.values())
        if self._host and not math.isfinite(total.item()):
            raise not_finite(run.step, first_not_finite({k: v.item() for k, v in losses.items()}), run.keys(run.step))
        self._precision.backward(total if share == 1.0 else total * share, None)
        logs = {name: self._kept(value) for name, value in step.logs.items()} if step.logs else {}
        return {name: self._kept(loss) for name, loss in losses.items()}, logs

    def _distributed(self, run: Training, batch: Any) -> nn.Module:
        """The method as the ranks share it, after a trial of the first step that settles the micro-batch for all."""

        def trial(batch: Any) -> None:
            for player in run.optimizers:
                run.activate(player)
                self._accumulate(run, run.method, batch, player)

        with exact.preserved(), memory.buffers_kept(run.method):
            while self._ranks.any(memory.fails(trial, batch))[0]:
                memory.clear(run)
                if not run.method.per_sample:
                    fits = self._ranks.least(memory.largest(trial, run, batch))
                    raise memory.too_large(run, fits * self._ranks.world)
                self._cut(run)
            # Waiting for gradients that never come would stall the ranks; looking for them costs time in each step.
            unused = self._ranks.any(len(run.optimizers) > 1 or any(p.grad is None for p in run.trained))[0]
            memory.clear(run)
            run.release()
        return DistributedDataParallel(run.method, find_unused_parameters=unused)

    def _cut(self, run: Training) -> None:
        run.cut_smaller()
        if self.logger:
            self.logger.log(run.step, {"micro_batch": float(run.micro_batch or 0)})

    def _log(self, run: Training) -> dict[str, float]:
        """Write the window's means; returns what the progress line shows."""
        self._check(run)
        means = self._ranks.mean(run.window.means())
        shown = {"loss": sum(means[k] for k in run.window.losses[-1]), **run.rates()}
        if self.logger:
            self.logger.log(run.step, {**shown, **means})
        run.window = Window()
        return shown

    def _measure(self, run: Training) -> None:
        """Evaluate on `val`; remember the weights if they are the best so far."""
        model, val = run.measured(), run.data.val
        if model is None or val is None:
            return
        rows = self._ranks.gather(self.evaluate(model, val) if self._ranks.lead else [])[0]
        if self.logger:
            self.logger.log(run.step, values_of(rows, "val/"))
        if row := deciding(rows, self.settings.select):
            run.best.offer(run.step, row["metric"], float(row["value"]), model)
            run.stopped = run.best.exhausted

    def _check(self, run: Training) -> None:
        """On an accelerator losses are looked at once a window, and before anything is kept."""
        if not self._host and (found := run.window.first_bad()):
            raise not_finite(*found, run.keys(found[0]))

    def _moved(self, batch: Any) -> Any:
        stays = self._host and self._form is torch.preserve_format
        return batch if stays else move(batch, self.device, self._form)

    def _save(self, run: Training, path: Path, facts: dict, stream: Any) -> None:
        self._check(run)
        rng = self._ranks.gather(exact.state())
        if self._ranks.lead:
            scaler = self._precision.state_dict()
            found = {"facts": facts, "rng": rng, "scaler": scaler, "unreadable": stream.unreadable}
            checkpoint.write(path, run.state() | found)
        self._fabric.barrier()

    def _restore(self, run: Training, saved: dict, path: Path) -> None:
        allowed, scaler = self._allow_changed, self._precision.state_dict()
        checkpoint_check.check(saved, run, scaler, self._ranks.rank, path, allow_changed=allowed)
        run.restore(saved)
        self._precision.load_state_dict(saved["scaler"])
        if isinstance(self.logger, (CsvLogger, TensorBoardLogger)):
            self.logger.cut(run.step)

    def evaluate(self, task: Any, source: Source, *, batch: int | None = None) -> list[dict]:
        """The rows of the task's metric over a source. A Runner is measured in the same way, on the CPU."""
        metric = task.metric()
        with exact.preserved(), evaluating(task, self.device) as device, torch.inference_mode():
            for fields in batches(source, plain(task.input), batch or task.at_once, self.settings.workers):
                fields = move(fields, device)
                metric.update(task.decode(task(fields), fields), fields)
        return named(metric.compute(), task.labels)

    def batches(self, source: Source, input: Input | View, batch: int = 256) -> Iterator[dict]:
        """One ordered pass over a source, at a model's input size or through a view, on the device."""
        view = plain(input) if isinstance(input, Input) else input
        return (move(b, self.device) for b in batches(source, view, batch, self.settings.workers))

    def map(self, fn: Callable[[Any], Any], items: Iterable[Any]) -> list:
        """fn of every item, in order; spread over the ranks, and over `workers` processes on each.

        With workers, fn and items are pickled. What fn raises comes through.
        """
        return self._ranks.map(fn, list(items), self.settings.workers)
