"""What a run will take in minutes, memory and disk; and shorter runs that keep within minutes."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Mapping

from ..core.exact import preserved
from ..core.recipe import Recipe
from ..core.resources import peak_bytes
from ..ship import quantity
from ..text_table import table
from .lengths import SHORTEST
from .trial import ONCE, Found, Range, Trial

BENCH = 1.0  # seconds that the report times each file


@dataclasses.dataclass(frozen=True)
class Estimate:
    """minutes: a range for every stage, for "report" (measuring all results) and for "all".

    memory: bytes, the peak of this process or, on a GPU, of its tensors. disk: the most that the run's folder will take.
    training: stage -> steps and the range of seconds that these alone take.
    """

    minutes: dict[str, Range]
    memory: int
    disk: int
    training: dict[str, tuple[int, float, float]] = dataclasses.field(default_factory=dict)


def estimate(recipe: Mapping[str, Any], *, device: str = "auto", steps: int = 20, seconds: float = 4.0) -> Estimate:
    """Try a recipe that passed its checks: up to `steps` steps or `seconds` of each distinct training.

    Later stages work on what those few steps made, which is as large and as fast as what the run will make. Raises what a
    stage raises, so a net that cannot be exported is known before hours are spent on it.
    """
    parsed = Recipe.from_dict(recipe)
    with preserved(), TemporaryDirectory() as folder:
        trial = Trial(Path(folder), parsed.seed, device, steps, seconds)
        tried = {stage.name: (stage, trial.carry_out(stage)) for stage in parsed.stages}
        memory = peak_bytes()
    minutes, training = {}, {}
    for name, (stage, found) in tried.items():
        minutes[name], whole = found.lasts(stage)
        if stage.verb == "teach":
            training[name] = whole
    report = _report([found for _, found in tried.values()])
    minutes["report"] = (ONCE[0] * report / 60, ONCE[1] * report / 60)
    minutes["all"] = _sums(minutes)
    return Estimate(minutes, memory, _disk([found for _, found in tried.values()]), training)


def scaled(recipe: Mapping[str, Any], estimate: Estimate, minutes: float) -> dict[str, Any] | None:
    """The recipe with all trainings cut by one factor so that the high estimate is within the minutes.

    None when even the shortest trainings take longer. No training gets longer than it was.
    """

    def at(share: float) -> dict[str, int]:
        return {name: max(min(n, SHORTEST), int(share * n)) for name, (n, _, _) in estimate.training.items()}

    def fits(share: float) -> bool:
        return rescaled(estimate, at(share)).minutes["all"][1] <= minutes

    if not fits(0.0):
        return None
    low, high = 0.0, 1.0
    if not fits(high):
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        high = low
    cut = at(high)
    parsed = Recipe.from_dict(recipe).to_dict()
    for index, stage in enumerate(Recipe.from_dict(recipe).stages):
        if stage.name in cut and "steps" in stage.values:
            parsed["stages"][index]["steps"] = cut[stage.name]
    return parsed


def rescaled(estimate: Estimate, steps: Mapping[str, int]) -> Estimate:
    """The estimate of the same recipe with other numbers of steps, by stage."""
    minutes, training = {k: v for k, v in estimate.minutes.items() if k != "all"}, dict(estimate.training)
    for name, n in steps.items():
        before, low, high = estimate.training[name]
        share = n / before
        training[name] = (n, low * share, high * share)
        minutes[name] = (minutes[name][0] - (1 - share) * low / 60, minutes[name][1] - (1 - share) * high / 60)
    return dataclasses.replace(estimate, minutes={**minutes, "all": _sums(minutes)}, training=training)


def as_text(estimate: Estimate) -> str:
    """For a terminal: a line a stage, then the sum."""
    rows = [{"stage": name, "takes about": _span(span)} for name, span in estimate.minutes.items() if name != "all"]
    return (f"{table(rows)}\n\nIn all about {_span(estimate.minutes['all'])}, {estimate.memory / 2**30:.1f} GiB of memory, "
            f"{quantity.size(estimate.disk)} of disk.")  # fmt: skip


def _report(tried: list[Found]) -> float:
    """Seconds: each model answers the test images, each file those and the validation images, is timed, and the teacher
    is exported for that."""
    evaluation = max(found.evaluation for found in tried)
    files = [found for found in tried if found.made is None]
    answers = sum(found.evaluation for found in tried if found.made) + 2 * len(files) * evaluation
    return answers + BENCH * (len(files) + 1) + max((found.once for found in files), default=0.0)


def _disk(tried: list[Found]) -> int:
    """Bytes: every artifact, the files once more under their plain names, the teacher's file for its time, and the
    largest checkpoint twice, since the old one stays until the new one is whole."""
    files = sum(found.file for found in tried if found.made is None)
    largest = max(found.file for found in tried)
    return sum(found.file for found in tried) + files + largest + 2 * max(found.checkpoint for found in tried)


def _sums(minutes: Mapping[str, Range]) -> Range:
    return sum(low for low, _ in minutes.values()), sum(high for _, high in minutes.values())


def _span(minutes: Range) -> str:
    """ "20 to 25 seconds", "1.5 to 2 minutes", "3 to 4 hours"."""
    unit, one = ("seconds", 1 / 60) if minutes[1] < 1 else ("minutes", 1.0) if minutes[1] < 120 else ("hours", 60.0)
    low, high = (value / one for value in minutes)
    digits = 0 if unit == "seconds" or high >= 20 else 1
    least, most = round(low, digits), math.ceil(high * 10**digits) / 10**digits
    return f"{most:g} {unit}" if least == most else f"{least:g} to {most:g} {unit}"
