"""The curves of a run: its CSV logs read back, thinned, and drawn as one chart a stage and kind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Iterable, Mapping, Sequence

from ..core.errors import MarrowError
from ..core.watch import MARK
from . import plots, quantity

Log = Sequence[tuple[int, str, float]]  # (step, name, value), in the order of logging
Points = Sequence[tuple[float, float]]
VALIDATION = "val/"  # how the engine marks what it measured on validation images

# Logs that mean something by themselves: unit, title, and what they are.
MEANING = {
    "agreement": ("%", "Agreement with the teacher on training images",
                  "How many images of a batch the student and the teacher call the same."),
    "neighbour": ("%", "Nearest neighbours as the teacher has them, on training images",
                  "For how many images of a batch the nearest other image, by pooled features, is the teacher's nearest too."),
    "cosine": ("", "Cosine with the teacher's features on training images",
               "Of the student's pooled features after the projection that is dropped later; 1 is the same direction."),
    "dense_cosine": ("", "Cosine with the teacher's maps on training images", "Of the last maps, place by place."),
    "teacher_entropy": ("", "Entropy of the teacher's answers on training images",
                        "In nats: 0 where it is sure of one class; the logarithm of the number of classes where it knows nothing."),
}  # fmt: skip

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
    """The log's names, each with its points; a sum of losses is left out where it is the same as its one term.

    Of a probe only what it says first.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    probed = next((name for _, name, _ in log if name.startswith(MARK)), None)
    for step, name, value in log:
        if name.split("/")[-1] not in NOT_DRAWN and (name == probed or not name.startswith(MARK)):
            found.setdefault(name, []).append((float(step), value))
    total = found.get("loss")
    if any(name != "loss" and points == total for name, points in found.items()):
        del found["loss"]
    return found


def progress(logs: Mapping[str, Log], colours: Mapping[str, str], metric: str = "top1") -> list[dict]:
    """One chart for everything logged that means something by itself, with all stages that have it over their training.

    What was measured on validation images comes first, then what probes said; of top-1 and balanced top-1 only the `metric` of the run.
    """
    named = {stage: by_name(log) for stage, log in logs.items()}
    unwanted = VALIDATION + ("top1" if metric == "balanced_top1" else "balanced_top1")
    shown = dict.fromkeys(name for stage in named.values() for name in stage if name != unwanted)
    order = sorted(shown, key=lambda name: (not name.startswith(VALIDATION), not name.startswith(MARK),
                                            [*MEANING, name].index(name)))  # fmt: skip
    return [_progress(name, said, named, colours) for name in order if (said := meaning(name))]


def _progress(
    name: str, said: tuple[str, str, str], named: Mapping[str, Mapping[str, Points]], colours: Mapping[str, str]
) -> dict:
    (unit, title, note), lines = said, []
    for stage, curves in named.items():
        if name in curves:
            last = max(step for points in curves.values() for step, _ in points) or 1
            points = [(100 * step / last, (100 if unit else 1) * value) for step, value in thinned(curves[name])]
            lines.append(plots.Curve(quantity.called(stage), colours[stage], points))
    label = f"{title}: {', '.join(line.name for line in lines)}"
    drawn = {
        kind: plots.curves(lines, width=width, height=height, unit=unit, x_unit="training, %", label=label)
        for kind, width, height in (("wide", 860, 300), ("narrow", 350, 250), ("small", 410, 230))
    }
    return {"title": title, "note": note, "legend": _legend(lines), **drawn}


def losses(logs: Mapping[str, Log]) -> list[dict]:
    """One small chart a stage with everything else that it logged."""
    charts = []
    for stage, log in logs.items():
        named = {n: thinned(p) for n, p in by_name(log).items() if not meaning(n)}
        lines = [plots.Curve(n.replace("_", " "), f"c{i % 6}", points) for i, (n, points) in enumerate(named.items())]
        if lines:
            drawn = plots.curves(lines, width=410, height=210, unit="", x_unit="step", label=f"losses of {stage}")
            charts.append({"stage": quantity.called(stage), "legend": _legend(lines), "plot": drawn})
    return charts


def meaning(name: str) -> tuple[str, str, str] | None:
    """Unit, title and note of a curve that says more than a loss does: "val/top1", "agreement"; None for others.

    The page explains a run's metric beside its rows: no note here.
    """
    if name.startswith(MARK):
        metric = name.removeprefix(MARK)
        return ("%" if metric in quantity.SHARES else "", f"{quantity.title(metric)}, by a probe of the features",
                "Asked of the model as it was then, which learned nothing from it.")  # fmt: skip
    if not name.startswith(VALIDATION):
        return MEANING.get(name)
    metric = name.removeprefix(VALIDATION)
    if metric not in quantity.SHARES:
        return None
    return "%", f"{quantity.title(metric)} on validation images", ""


def _legend(lines: Iterable[plots.Curve]) -> list[dict[str, str]]:
    return [{"name": line.name, "colour": line.colour} for line in lines]
