"""Stages of a recipe in small: a few steps of each training, everything else once; and how long that took."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
from pathlib import Path
from time import perf_counter
from typing import Any, Callable, Mapping

import torch

from ..core import artifact
from ..core.artifact import Artifact
from ..core.catalogue import contract_class
from ..core.contracts import Backbone, Method, Task
from ..core.engine import Engine
from ..core.errors import MarrowError, ParityError
from ..core.loader import Data
from ..core.models import resolve
from ..core.recipe import Stage
from ..core.source import Source
from ..core.training import total_steps
from ..core.watch import Watch
from ..data.combine import Subset
from ..stages import VERBS, open_data

FEWEST = 3  # steps that are timed of every training, after one to warm up
SHARE = 10  # of a short training no more than a tenth is tried
EVALUATED = 64  # images of an evaluation, which is then taken as a part of a whole one
SURE = 100.0
ONCE = (0.8, 1.3)  # what was measured a single time may take this much of it
# They change how long a training lasts, not how long one of its steps takes.
NOT_A_STEPS = {"name", "steps", "evaluate_percent", "patience", "select", "optim"}

Range = tuple[float, float]  # low, high


@dataclasses.dataclass(frozen=True)
class Found:
    """What one stage took. Seconds: once (start, saving), each step as a range, one evaluation, one look of its probe.

    Bytes: file, checkpoint.
    """

    made: Artifact | None
    once: float
    file: int
    total: int = 0
    each: Range = (0.0, 0.0)
    evaluation: float = 0.0
    checkpoint: int = 0
    look: float = 0.0

    def lasts(self, stage: Stage) -> tuple[Range, tuple[int, float, float]]:
        """Minutes of the stage; its steps and the seconds that these take, least and most.

        A training that may stop early takes the least when its first measurement stays the best.
        """
        settings = stage.settings()
        every = max(1, round(self.total * (settings.evaluate_percent or 100.0) / 100))
        most = math.ceil(self.total / every) if settings.evaluate_percent else 0
        least = most if settings.patience is None else min(most, settings.patience + 1)
        steps = min(self.total, least * every) if settings.patience is not None else self.total
        low, high = steps * self.each[0], self.total * self.each[1]
        # Measured once more at the end, for the artifact; the probe looks before the first step, too.
        looks = math.ceil(100 / stage.values["probe"]["every_percent"]) + 1 if stage.probe else 0
        around = [
            ONCE[i] * (self.once + (n + 1) * self.evaluation + looks * self.look) for i, n in enumerate((least, most))
        ]
        return ((low + around[0]) / 60, (high + around[1]) / 60), (self.total, low, high)


class Trial:
    """Carries out the stages of a recipe in small; equal ones once."""

    def __init__(self, folder: Path, seed: int, device: str, steps: int, seconds: float):
        self.folder, self.seed, self.device, self.steps, self.seconds = folder, seed, device, steps, seconds
        self._done: dict[int | str, Artifact] = {}
        self._known: dict[str, Found] = {}
        self._opened: dict[str, tuple[Data, float]] = {}

    def carry_out(self, stage: Stage) -> Found:
        where = f"stages[{stage.index}]"
        data, opening = self._open(stage, where)
        kinds = sorted((player, optim.kind) for player, optim in stage.settings().optim.items())
        key = json.dumps([{k: self._structure(v) for k, v in stage.values.items() if k not in NOT_A_STEPS}, kinds])
        if key not in self._known:
            torch.manual_seed(self.seed)
            self._known[key] = {"teach": self._teach, "ship": self._ship}.get(stage.verb, self._other)(
                stage, data, where
            )
        found = self._known[key]
        if stage.verb == "teach":
            found = dataclasses.replace(found, total=stage.settings().steps or found.total)
        if found.made:
            self._done[stage.index] = self._done[stage.name] = found.made
        return dataclasses.replace(found, once=found.once + opening)

    def _open(self, stage: Stage, where: str) -> tuple[Data, float]:
        """The data of a stage and the seconds that a run needs to open and to name it."""
        key = json.dumps(stage.streams)
        if key not in self._opened:
            began = perf_counter()
            data = open_data(stage, where)
            for source in (*data.streams.values(), *([data.val] if data.val is not None else [])):
                source.fingerprint()
            self._opened[key] = data, perf_counter() - began
        return self._opened[key]

    def _structure(self, value: Any) -> Any:
        """A part of a stage with earlier stages replaced by what their models are."""
        if isinstance(value, Mapping):
            if "stage" in value and value["stage"] in self._done:
                return {**value, "stage": self._done[value["stage"]].meta["spec"]}
            return {k: self._structure(v) for k, v in value.items()}
        return [self._structure(v) for v in value] if isinstance(value, (list, tuple)) else value

    def _models(self, stage: Stage, where: str) -> dict[str, Any]:
        made: dict[int | str, Callable[[], Any]] = {ref: a.load for ref, a in self._done.items()}
        return {role: resolve(spec, made, f"{where}.{role}") for role, spec in stage.roles.items()}

    def _teach(self, stage: Stage, data: Data, where: str) -> Found:
        began = perf_counter()
        data, watch = dataclasses.replace(data, watch=None), data.watch
        method = contract_class("teach", stage.stem)(**self._models(stage, where), **stage.args)
        if type(method).fit is not Method.fit:
            raise MarrowError(
                f"{stage.stem} has a loop of its own; a few steps do not tell how long it takes", where=where
            )
        settings, times, file = stage.settings(self.seed), _Times(), self.folder / f"{stage.name}.pt"
        total = total_steps(method, data, settings)

        def train(steps: int) -> None:
            few = dataclasses.replace(settings, steps=steps + 1, epochs=None, examples=None, evaluate_percent=None,
                                      patience=None, log_every=1)  # fmt: skip
            Engine(few, device=self.device, logger=times.anew(), checkpoint=file).train(method, data)

        train(FEWEST)
        once = perf_counter() - began - sum(times.seconds)
        allowed = self.seconds / max(statistics.median(times.seconds), 1e-6)
        if (more := int(min(self.steps, allowed, total / SHARE)) - FEWEST) > 0:
            train(more)
        made, saving, evaluation = self._saved(stage, _sure(method.product()), data)
        look = self._look(stage.probe, watch, method.product()) if watch and stage.probe else 0.0
        tenths = statistics.quantiles(times.seconds, n=10, method="inclusive")
        each = (tenths[0], tenths[-1])
        return Found(made, once + saving, _bytes(made.path), total, each, evaluation, file.stat().st_size, look)

    def _look(self, probe: Stage, watch: Watch, model: Any) -> float:
        """Seconds that a probe looks."""
        watch = dataclasses.replace(watch, models=self._models(probe, watch.where))
        began = perf_counter()
        watch.look(model, Engine(device=self.device))
        return perf_counter() - began

    def _ship(self, stage: Stage, data: Data, where: str) -> Found:
        began, exporter = perf_counter(), contract_class("ship", stage.stem)(**stage.args)
        folder = self.folder / stage.name
        folder.mkdir()
        try:
            exporter.export(self._models(stage, where), data, Engine(stage.settings(), device=self.device), folder)
        except ParityError:
            # How much is lost to fewer bits depends on the weights, and these know nothing yet.
            if "calibration" not in exporter.streams:
                raise
        return Found(None, perf_counter() - began, _bytes(folder))

    def _other(self, stage: Stage, data: Data, where: str) -> Found:
        began = perf_counter()
        engine = Engine(stage.settings(self.seed), device=self.device)
        product, _ = VERBS[stage.verb](stage, self._models(stage, where), data, engine, where)
        once = perf_counter() - began
        made, saving, evaluation = self._saved(stage, product, data)
        return Found(made, once + saving, _bytes(made.path), evaluation=evaluation)

    def _saved(self, stage: Stage, product: Any, data: Data) -> tuple[Artifact, float, float]:
        """The artifact, the seconds that saving it took, and those of one pass over all validation images."""
        evaluation = 0.0
        if data.val is not None and isinstance(product, Task):
            few = Subset(data.val, range(min(EVALUATED, len(data.val))))
            engine = Engine(stage.settings(self.seed), device=self.device)
            began = perf_counter()
            engine.evaluate(product, few)
            evaluation = (perf_counter() - began) * len(data.val) / len(few)
        began = perf_counter()
        made = artifact.save(self.folder / stage.name, product, labels=_classes(data))
        return made, perf_counter() - began, evaluation


@torch.no_grad()
def _sure(product: Any) -> Any:
    """Hardly trained, but with answers as sharp as a trained one's: methods refuse teachers that know nothing."""
    for part in product.children() if isinstance(product, Task) else ():
        for p in () if isinstance(part, Backbone) else part.parameters():
            p.mul_(SURE)
    return product


class _Times:
    """A logger that notes how long each step took, but for the first after `anew`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def anew(self) -> "_Times":
        self._step, self._at = -1, math.nan
        return self

    def log(self, step: int, values: dict[str, float]) -> None:
        if step <= self._step:
            return  # a smaller micro-batch is logged in the middle of its step
        now = perf_counter()
        if self._step >= 0:
            self.seconds.append(now - self._at)
        self._step, self._at = step, now

    def close(self) -> None:
        pass


def _classes(data: Data) -> list[str] | None:
    sources: list[Source] = [*data.streams.values(), *([data.val] if data.val is not None else [])]
    return next((list(s.classes) for s in sources if s.classes), None)


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.iterdir())
