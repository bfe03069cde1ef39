"""A claim: what a paper says, the small experiment that checks it here, and how its verdict is reached."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any, Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Claim:
    """Arms that differ in one thing, run with the same seeds and steps.

    arms: name -> recipe (as a mapping); the artifact of its last stage is measured on `test`, or is
    the report of a probe. measure: the metric's name.
    A source with `salt: seed` is drawn anew for every seed, for all arms alike, so that seeds differ in their split too.
    minutes: of processor time that all arms and seeds are expected to take; a result says how many they took.
    better, than: the arms whose paired difference decides; by: the difference that counts, in the measure's unit.
    unlike: what else the arms differ in, or what a reader must know before trusting the figure.
    """

    paper: str
    says: str
    arms: Mapping[str, Mapping[str, Any]]
    measure: str
    better: str
    than: str
    test: Sequence[Mapping[str, Any]]
    data: str
    minutes: float
    by: float = 0.0
    seeds: tuple[int, ...] = (0, 1, 2)
    full_scale: str | None = None
    unlike: str = ""

    def __post_init__(self) -> None:
        for arm in (self.better, self.than):
            if arm not in self.arms:
                raise ValueError(f"no arm '{arm}' among {', '.join(self.arms)}")


def drawn(given: Any, seed: int) -> Any:
    """A recipe or a list of sources with `salt: seed` replaced by the seed, everywhere in it."""
    if isinstance(given, Mapping):
        return {k: seed if k == "salt" and v == "seed" else drawn(v, seed) for k, v in given.items()}
    return [drawn(v, seed) for v in given] if isinstance(given, (list, tuple)) else given


def interval95(values: Sequence[float]) -> tuple[float, float]:
    """Student's interval of a mean; infinite for a single value."""
    n, mean = len(values), sum(values) / len(values)
    if n < 2:
        return -math.inf, math.inf
    from scipy.stats import t

    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
    return mean - half, mean + half


def verdict(differences: Sequence[float], by: float) -> str:
    """ "holds": the mean reaches `by` and the interval excludes 0. "does not hold": the interval excludes `by` from above."""
    low, high = interval95(differences)
    if low > 0 and sum(differences) / len(differences) >= by:
        return "holds"
    return "does not hold" if high < by or high <= 0 else "undecided"


def result(
    claim: Claim, system: str, values: Mapping[str, Sequence[float]], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The committed form of an outcome. values: arm -> one number a seed, in the order of `claim.seeds`."""
    differences = [m - b for m, b in zip(values[claim.better], values[claim.than], strict=True)]
    low, high = interval95(differences)
    others = {arm: sum(v) / len(v) - sum(values[claim.than]) / len(v) for arm, v in values.items() if arm != claim.than}
    return {
        "system": system,
        "paper": claim.paper,
        "says": claim.says,
        "measure": claim.measure,
        "arms": {arm: [round(v, 6) for v in values[arm]] for arm in claim.arms},
        "better": claim.better,
        "than": claim.than,
        "by": claim.by,
        "difference": round(sum(differences) / len(differences), 6),
        "ci95": [round(low, 6), round(high, 6)] if math.isfinite(low) else None,
        "over_baseline": {arm: round(v, 6) for arm, v in others.items()},
        "seeds": list(claim.seeds),
        "verdict": verdict(differences, claim.by),
        "data": claim.data,
        "unlike": claim.unlike,
        **facts,
        "full_scale": claim.full_scale,
    }


def write(file: Path, outcome: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps(outcome, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(file)
