"""Whether what a checkpoint holds fits the training that is to go on from it.

Reading one runs no code, but its numbers may be anybody's, or those of a training that has changed since. Everything is
compared with what this training would write now, so that nothing is left to fail in the middle of a step.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Iterable, Mapping

import torch
from torch import Tensor

from . import exact, optim
from .checkpoint import plain, refuse_changes
from .errors import MarrowError
from .limits import FOREIGN, told
from .training import Training


class Misfit(Exception):
    """Where in a checkpoint, and what is wrong there."""


def check(
    saved: Mapping[str, Any], run: Training, scaler: Mapping[str, Any], rank: int, path: Path, *, allow_changed: bool
) -> None:
    """Raise MarrowError where a checkpoint is none of this training, or of one with other facts unless that is allowed.

    scaler: the present state of the loss scaler.
    """
    if not allow_changed:
        refuse_changes(saved["facts"], run.facts(), path.name)
    try:
        _progress(saved, run)
        _same("method", saved["method"], run.method.state_dict())
        _optimizers(saved["optimizers"], run)
        _same("average", saved["average"], run.average.module.state_dict() if run.average else None)
        _best(saved["best"], run)
        _window(saved["window"])
        _same("scaler", saved["scaler"], scaler)
        if not all(isinstance(text, str) for pair in saved["unreadable"].items() for text in pair):
            raise Misfit("unreadable holds something that is no text")
        _drawn(saved["rng"], rank)
    except Misfit as misfit:
        raise MarrowError(f"the checkpoint does not fit this training ({misfit}).", where=str(path),
                          hint="Delete it to begin this training again; finished stages stay.") from None  # fmt: skip


def _progress(saved: Mapping[str, Any], run: Training) -> None:
    if not (_whole(saved["step"]) and saved["step"] <= run.total):
        raise Misfit(f"it is at step {_said(saved['step'])} of {run.total}")
    if saved["micro_batch"] is not None and not (_whole(saved["micro_batch"]) and saved["micro_batch"]):
        raise Misfit(f"micro_batch is {_said(saved['micro_batch'])}")


def _optimizers(saved: Any, run: Training) -> None:
    _names("optimizers", saved, run.optimizers)
    for player, optimizer in run.optimizers.items():
        place, found, now = f"optimizers.{player}", saved[player], plain(optim.state(optimizer))
        _names(place, found, now)
        groups = found["param_groups"]
        if not isinstance(groups, list) or len(groups) != len(now["param_groups"]):
            raise Misfit(f"{place}.param_groups is no list of {len(now['param_groups'])}")
        for i, (group, wanted) in enumerate(zip(groups, now["param_groups"])):
            inner = f"{place}.param_groups[{i}]"
            _names(inner, group, {*wanted, *({"step"} & set(group if isinstance(group, dict) else ()))})
            numbers = group["params"]
            if not isinstance(numbers, list) or not all(map(_whole, numbers)) or numbers != wanted["params"]:
                raise Misfit(f"{inner} is of other weights")
            _counted(inner, group)
        _kept(f"{place}.state", found["state"], run, player)


def _kept(place: str, found: Any, run: Training, player: str) -> None:
    """What an optimiser keeps of each weight, compared with what it keeps of one of that shape after a step."""
    if not isinstance(found, dict):
        raise Misfit(f"{place} is {_said(found)}")
    params = [p for group in run.optimizers[player].param_groups for p in group["params"]]
    forms: dict[tuple, dict[str, Any]] = {}
    for number, state in found.items():
        inner = f"{place}.{number}"
        if not (_whole(number) and number < len(params)):
            raise Misfit(f"{inner} is of no weight")
        form = params[number].shape, params[number].dtype
        if form not in forms:
            forms[form] = plain(optim.kept_of(params[number], run.settings.optim[player]))
        _names(inner, state, forms[form])
        for key, value in forms[form].items():
            _same(f"{inner}.{key}", state[key], value)
        _counted(inner, state)


def _counted(place: str, found: Mapping[str, Any]) -> None:
    """An optimiser takes powers of its number of steps and divides by what comes out."""
    if "step" in found:
        step = found["step"].item() if isinstance(found["step"], Tensor) and not found["step"].dim() else found["step"]
        if not isinstance(step, (int, float)) or not 0 <= step < 2**53:
            raise Misfit(f"{place}.step is {_said(step)}")


def _best(found: Any, run: Training) -> None:
    _names("best", found, run.best.state())
    step, metric, value, weights = found["step"], found["metric"], found["value"], found["weights"]
    if not (step is None or (_whole(step) and step <= run.total)) or not _whole(found["misses"]):
        raise Misfit(f"best is of step {_said(step)} with {_said(found['misses'])} after it")
    if not isinstance(metric, str) or not isinstance(value, float) or not isinstance(weights, dict):
        raise Misfit("best has no metric, value and weights")
    _same("best.weights", weights, run.product.state_dict() if step is not None and run.product else {})


def _window(found: Any) -> None:
    _names("window", found, ("steps", "losses", "logs"))
    rows = list(found.values())
    if not all(isinstance(column, list) for column in rows) or len(set(map(len, rows))) > 1:
        raise Misfit("window holds no lists of one length")
    if not all(map(_whole, found["steps"])):
        raise Misfit("window.steps holds something that is no step")
    for row in (*found["losses"], *found["logs"]):
        if not isinstance(row, dict) or not all(isinstance(k, str) and isinstance(v, float) for k, v in row.items()):
            raise Misfit("window holds something that is no loss")


def _drawn(found: list, rank: int) -> None:
    """The random numbers of a rank: taken up for a moment, as only the generators know what they take."""
    if not found:
        raise Misfit("rng is empty")
    mine, now = found[min(rank, len(found) - 1)], plain(exact.state())
    _names("rng", mine, now)
    for part in ("python", "numpy"):
        _names(f"rng.{part}", mine[part], now[part])
    gauss, device = mine["python"]["gauss"], mine["device"]
    if not (gauss is None or isinstance(gauss, float)) or not (device is None or isinstance(device, Tensor)):
        raise Misfit("rng holds something that is no random state")
    _same("rng.torch", mine["torch"], now["torch"])
    _same("rng.python", {**mine["python"], "gauss": None}, {**now["python"], "gauss": None})
    _same("rng.numpy", mine["numpy"], now["numpy"])
    if not 0 <= mine["numpy"]["pos"] <= len(mine["numpy"]["key"]):  # numpy would read beyond its memory
        raise Misfit(f"rng.numpy.pos is {mine['numpy']['pos']}")
    try:
        with exact.preserved():
            exact.restore(mine)
    except FOREIGN as error:
        raise Misfit(f"rng: {told(error)}") from None


def _names(place: str, found: Any, wanted: Iterable[str]) -> None:
    if not isinstance(found, dict):
        raise Misfit(f"{place} is {_said(found)}")
    for key in wanted:
        if key not in found:
            raise Misfit(f"{place} lacks '{key}'")
    for key in found:
        if key not in wanted:
            raise Misfit(f"{place} has '{key}', which the training has not")


def _same(place: str, found: Any, like: Any) -> None:
    """Tensors of one shape and type and values of one type, under the same names."""
    if isinstance(like, Tensor):
        dense = isinstance(found, Tensor) and found.layout == torch.strided and found.device.type == "cpu"
        if not dense or found.shape != like.shape or found.dtype != like.dtype:
            raise Misfit(f"{place} is {_said(found)}, and {_said(like)} is needed")
    elif isinstance(like, Mapping):
        _names(place, found, like)
        for key, value in like.items():
            _same(f"{place}.{key}", found[key], value)
    elif isinstance(like, (list, tuple)):
        if not isinstance(found, list) or len(found) != len(like):
            raise Misfit(f"{place} is {_said(found)}, and a list of {len(like)} is needed")
        for i, value in enumerate(like):
            _same(f"{place}[{i}]", found[i], value)
    elif type(found) is not type(like) or (isinstance(like, float) and not math.isfinite(found)):
        raise Misfit(f"{place} is {_said(found)}, and {_said(like)} would fit")


def _whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _said(value: Any) -> str:
    """A value in an error's sentence."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {' x '.join(map(str, value.shape)) or 'number'}"
    return repr(value) if isinstance(value, (bool, int, float, str, type(None))) else f"a {type(value).__name__}"
