"""The keys of a stage and the values they take."""

from __future__ import annotations

import math
from typing import Any, Callable, Iterator, Mapping

from .catalogue import VERBS
from .errors import near

DURATIONS = ("steps", "epochs", "examples")
SCHEDULES = ("cosine", "constant", "linear")
SEEDS = 1000  # of stages
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(low: int) -> tuple[Callable[[Any], bool], str]:
    return lambda v: is_whole(v) and v >= low, f"a whole number of at least {low}"


_above_zero = (lambda v: is_number(v) and v > 0, "a number above 0")
_flag = (lambda v: isinstance(v, bool), "true or false")
_percent = (lambda v: is_number(v) and 0 < v <= 100, "a number above 0 and up to 100")

# key -> (does a value fit, what fits in words)
TRAINING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "steps": _whole(1),
    "epochs": _above_zero,
    "examples": _whole(1),
    "seed": (lambda v: is_whole(v) and 0 <= v < SEEDS, f"a whole number from 0 to {SEEDS - 1}"),
    "optim": (lambda v: isinstance(v, Mapping), "a mapping such as {adamw: {lr: 1e-3}}"),
    "accumulate": _whole(1),
    "micro_batch": _whole(1),
    "clip": _above_zero,
    "cached_views": (lambda v: is_whole(v) and 1 <= v <= 200, "a whole number from 1 to 200"),
    "precision": (lambda v: v in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
    "channels_last": _flag,
    "compile": _flag,
    "checkpoint_gradients": _flag,
    "ema": (lambda v: is_number(v) and 0 < v < 1, "a number between 0 and 1"),
    "evaluate_percent": _percent,
    "patience": _whole(1),
    "select": (lambda v: isinstance(v, str) and bool(v), "the name of a metric"),
    "probe": (lambda v: isinstance(v, Mapping), "a mapping such as {examine: knn, every_percent: 10, data: {...}}"),
    "layer_decay": (lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and up to 1"),
    "lr_multipliers": (lambda v: isinstance(v, (list, tuple)) and bool(v) and all(is_number(x) and x >= 0 for x in v),
                       "a list of numbers of at least 0"),
}  # fmt: skip
STAGE_KEYS = frozenset({*VERBS, "name", "args", "data", *TRAINING})


def check_training(
    stage: Mapping[str, Any], players: tuple[str, ...], where: str, *, owns_loop: bool = False
) -> Iterator[str]:
    """Problems of the training settings of a `teach` stage; a method that owns its loop may go without a duration."""
    for key, (fits, words) in TRAINING.items():
        if key in stage and not fits(stage[key]):
            yield f"{where}.{key}: {words} is needed, got {stage[key]!r}"
    given = [d for d in DURATIONS if d in stage]
    if len(given) > 1 or not (given or owns_loop):
        yield f"{where}: exactly one of {', '.join(DURATIONS)} is needed, got {' and '.join(given) or 'none'}"
    if "accumulate" in stage and "micro_batch" in stage:
        yield f"{where}.accumulate: it sets the micro-batch; give accumulate or micro_batch, not both"
    for key, does in (("patience", "counts"), ("select", "compares")):
        if key in stage and "evaluate_percent" not in stage:
            yield f"{where}.{key}: it {does} measurements; evaluate_percent is needed too"
    if isinstance(optim := stage.get("optim"), Mapping):
        yield from _check_optim(optim, players, f"{where}.optim")
    elif len(players) > 1 and "optim" not in stage:
        yield f"{where}.optim: one entry for each of {', '.join(players)} is needed"


def check_watch(probe: Mapping[str, Any], where: str) -> Iterator[str]:
    """Problems of a stage's probe that an examine stage by itself would not have."""
    fits, words = _percent
    if not fits(probe.get("every_percent")):
        yield f"{where}.every_percent: {words} is needed, got {probe.get('every_percent')!r}"
    for key in ("name", "probe"):
        if key in probe:
            yield f"{where}.{key}: a probe inside a training has no '{key}'"
    data = probe.get("data")
    for stream, sources in data.items() if isinstance(data, Mapping) else ():
        for i, source in enumerate(sources if isinstance(sources, list) else ()):
            if isinstance(source, Mapping) and source.get("split") == "test":
                yield f"{where}.data.{stream}[{i}].split: a training is watched on validation images, never on test ones"


def is_per_player(optim: Mapping[str, Any]) -> bool:
    """{generator: {adam: {...}}} and not {adam: {...}}: arguments of an optimiser are never mappings."""
    return any(isinstance(v, Mapping) and any(isinstance(x, Mapping) for x in v.values()) for v in optim.values())


def _check_optim(optim: Mapping[str, Any], players: tuple[str, ...], where: str) -> Iterator[str]:
    if not is_per_player(optim):
        if len(players) > 1:
            yield f"{where}: one entry for each of {', '.join(players)} is needed"
        yield from _check_one(optim, where)
        return
    for name, one in optim.items():
        if name not in players:
            yield f"{where}.{name}: unknown player '{name}'{near(name, players)}"
        elif not isinstance(one, Mapping):
            yield f"{where}.{name}: a mapping such as {{adamw: {{lr: 1e-3}}}} is needed, got {one!r}"
        else:
            yield from _check_one(one, f"{where}.{name}")
    if missing := [p for p in players if p not in optim]:
        yield f"{where}: an entry for {', '.join(missing)} is missing"


def _check_one(optim: Mapping[str, Any], where: str) -> Iterator[str]:
    curve = ("schedule", "warmup_percent")
    kinds = [k for k in optim if k not in curve]
    for key in list(kinds):
        if not isinstance(optim[key], Mapping):
            kinds.remove(key)
            suggestion = near(key, curve)
            yield f"{where}.{key}: " + (f"unknown key '{key}'{suggestion}" if "mean" in suggestion else
                                        f"a mapping such as {{lr: 1e-3}} is needed, got {optim[key]!r}")  # fmt: skip
    if len(kinds) != 1:
        yield f"{where}: exactly one optimiser is needed, such as adamw: {{lr: 1e-3}}; got {', '.join(kinds) or 'none'}"
    for kind in kinds:
        if "lr" in optim[kind] and not (is_number(lr := optim[kind]["lr"]) and lr > 0):
            yield f"{where}.{kind}.lr: a number above 0 is needed, got {lr!r}"
        decay = optim[kind].get("weight_decay", 0)
        if not (is_number(decay) and decay >= 0):
            yield f"{where}.{kind}.weight_decay: a number of at least 0 is needed, got {decay!r}"
    if (schedule := optim.get("schedule", "cosine")) not in SCHEDULES:
        yield f"{where}.schedule: unknown schedule '{schedule}'{near(schedule, SCHEDULES)}"
    warmup = optim.get("warmup_percent", 0)
    if not (is_number(warmup) and 0 <= warmup <= 100):
        yield f"{where}.warmup_percent: a number from 0 to 100 is needed, got {warmup!r}"
