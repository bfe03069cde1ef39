"""The curves of a run: its CSV logs read back, thinned, and drawn as one chart a stage and kind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Iterable, Mapping, Sequence

from ..core.errors import MarrowError
from . import plots, quantity

Log = Sequence[tuple[int, str, float]]  # (step, name, value), in the order of logging
Points = Sequence[tuple[float, float]]
VALIDATION = "val/"  # how the engine marks what it measured on validation images

DRAWN = 120  # points a curve; more would not be seen
NOT_DRAWN = ("lr", "grad_norm", "micro_batch")  # of the training, not of the model


def read(folder: Path) -> dict[str, list[tuple[int, str, float]]]:
    """Stage -> its log, from `<stage>.csv` files; no folder, no curves."""
    return {file.stem: _rows(file) for file in sorted(folder.glob("*.csv"))}


def _rows(file: Path) -> list[tuple[int, str, float]]:
    with open(file, newline="", encoding="utf-8") as handle:
        lines = csv.DictReader(handle)
        try:
            return [(int(line["step"]), line["name"], float(line["value"])) for line in lines]
        except (KeyError, TypeError, ValueError):
            raise MarrowError(f"line {lines.line_num} is not step,name,value", where=str(file)) from None


def thinned(points: Points) -> list[tuple[float, float]]:
    """Means over equal bins of neighbours; a short curve is left as it is."""
    each = -(-len(points) // DRAWN)
    bins = [points[i : i + each] for i in range(0, len(points), each)] if each > 1 else [[p] for p in points]
    return [(sum(x for x, _ in b) / len(b), sum(y for _, y in b) / len(b)) for b in bins]


def by_name(log: Log) -> dict[str, list[tuple[float, float]]]:
    """The log's names, each with its points; a sum of losses is left out where it is the same as its one term."""
    found: dict[str, list[tuple[float, float]]] = {}
    for step, name, value in log:
        if name.split("/")[-1] not in NOT_DRAWN:
            found.setdefault(name, []).append((float(step), value))
    total = found.get("loss")
    if any(name != "loss" and points == total for name, points in found.items()):
        del found["loss"]
    return found


def progress(logs: Mapping[str, Log], colours: Mapping[str, str]) -> list[dict]:
    """One chart for every logged share (accuracy, agreement), with all stages that have it over their training."""
    named = {stage: by_name(log) for stage, log in logs.items()}
    shares = dict.fromkeys(name for stage in named.values() for name in stage if metric_of(name))
    return [_progress(name, named, colours) for name in shares if metric_of(name) != "balanced_top1"]


def _progress(name: str, named: Mapping[str, Mapping[str, Points]], colours: Mapping[str, str]) -> dict:
    lines = []
    for stage, curves in named.items():
        if name in curves:
            last = max(step for points in curves.values() for step, _ in points) or 1
            points = [(100 * step / last, 100 * value) for step, value in thinned(curves[name])]
            lines.append(plots.Curve(stage, colours[stage], points))
    where = "validation images" if name.startswith(VALIDATION) else "training images"
    title = f"{quantity.title(metric_of(name))} on {where}"
    label = f"{title}: {', '.join(line.name for line in lines)}"
    drawn = {
        kind: plots.curves(lines, width=width, height=height, unit="%", x_unit="training, %", label=label)
        for kind, width, height in (("wide", 860, 300), ("narrow", 350, 250))
    }
    return {"title": title, "legend": _legend(lines), **drawn}


def losses(logs: Mapping[str, Log]) -> list[dict]:
    """One small chart a stage with everything it logged that is no share."""
    charts = []
    for stage, log in logs.items():
        named = {n: thinned(p) for n, p in by_name(log).items() if not metric_of(n)}
        lines = [plots.Curve(n, f"c{i % 6}", points) for i, (n, points) in enumerate(named.items())]
        if lines:
            drawn = plots.curves(lines, width=410, height=210, unit="", x_unit="step", label=f"losses of {stage}")
            charts.append({"stage": stage, "legend": _legend(lines), "plot": drawn})
    return charts


def metric_of(name: str) -> str:
    """The share that a curve shows: "val/top1" is top1, "agreement" itself; "" for a loss or another log."""
    metric = name.removeprefix(VALIDATION)
    return metric if metric in quantity.SHARES else ""


def _legend(lines: Iterable[plots.Curve]) -> list[dict[str, str]]:
    return [{"name": line.name, "colour": line.colour} for line in lines]
