"""`marrow make`, the main job: teacher -> distilled student and baseline -> int8 -> ONNX -> verified -> report."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from .plan import Plan, Wishes, plan
from ..core.artifact import Artifact
from ..core.errors import Interrupted
from ..core.recipe import Recipe, Stage
from ..core.versions import versions
from ..data import open_source
from .measure import measure, thumbnails
from ..run import run
from ..ship import report as page
from ..ship.curves import read as read_curves
from ..stages import public
from ..survey import survey
from .verdict import shipped, verdict

ROWS = ("teacher", "baseline", "student", "pruned", "int8", "fp32")


def make(
    data: str | None = None,
    *,
    val: str | None = None,
    test: str | None = None,
    unlabelled: str | None = None,
    teacher: str | None = None,
    student: str | None = None,
    img_size: int | None = None,
    batch: int | None = None,
    epochs: float | None = None,
    device: str = "auto",
    seed: int = 0,
    skip: tuple[str, ...] = (),
    out: str | Path | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Carry out the whole chain and return the report, which also lies in `out` as report.json and report.html.

    data: labelled images (a folder with one sub-folder a class, parquet, shards); None takes the embedded digits.
    unlabelled: more images for the student. teacher: an artifact folder; None trains one. out: default `runs/` + the
    data's name + 8 digits of the recipe, so that the same call finds what it made before. skip: ("prune",) leaves
    pruning out.
    """
    start = time.monotonic()
    chosen = plan(Wishes(data, val, test, unlabelled, teacher, student, img_size, batch, epochs, seed, tuple(skip)))
    out = Path(out) if out is not None else Path("runs") / chosen.name
    minutes: dict[str, float] = {}

    def after(stage: Stage, artifact: Artifact, history: dict | None) -> None:
        minutes[stage.name] = round((time.monotonic() - start) / 60 - sum(minutes.values()), 2)

    try:
        made = run(
            chosen.recipe, out, resume=resume, allow_changed=allow_changed, device=device, quiet=quiet, after=after
        )
    except Interrupted:
        raise Interrupted from None  # the command adds itself and --resume
    stages = {a.meta["stage"]: a for a in made}
    if "teacher" not in stages:
        stages = {"teacher": Artifact.open(str(teacher)), **stages}
    report = _report(chosen, stages, out, device)
    report["minutes"] = {**minutes, "all": round((time.monotonic() - start) / 60, 2)}
    pictures = report.pop("thumbnails")
    _write(out / "report.json", json.dumps(report, indent=1, allow_nan=False))
    page.write(report, out / "report.html", curves=read_curves(out / "logs"), thumbnails=pictures)
    for name, file in (("fp32", "model.onnx"), ("int8", "model.int8.onnx")):
        shutil.copyfile(stages[name].path / "model.onnx", out / f".{file}.tmp")
        os.replace(out / f".{file}.tmp", out / file)
    return {**report, "out": str(out)}


def _report(chosen: Plan, stages: dict[str, Artifact], out: Path, device: str) -> dict[str, Any]:
    source = open_source(chosen.test, "test")
    check = next(s for s in chosen.recipe["stages"] if s.get("ship") == "onnx")["data"]["parity"][0]
    models = {name: artifact for name, artifact in stages.items() if name in ROWS}
    rows, measured = measure(models, source, check, device)
    if "pruned" not in models:
        rows.append(
            {"name": "pruned", "kind": None, "metric": None, "value": None, "reason": "left out by --skip prune"}
        )
    rows.sort(key=lambda r: ROWS.index(r["name"]))
    ship = shipped(rows)
    labels = stages["student"].meta["labels"]
    found = findings(chosen)
    return {
        "name": chosen.name,
        "task": "classify",
        "data": chosen.data,
        "device": machine(),
        "rows": rows,
        "baseline": "the student trained without the teacher: the same steps, on the labels alone",
        "ship": ship,
        "verdict": verdict(rows, ship, found),
        "choices": chosen.choices,
        "findings": found,
        "confusion": {"of": ship, "labels": labels, "counts": measured[ship].confusion.tolist()},
        "recipe": Recipe.from_dict(public(chosen.recipe)).to_yaml(),
        "lineage": [
            {"name": n, "kind": a.kind, "hash": a.hash, "parents": a.meta["parents"]} for n, a in stages.items()
        ],
        "licences": _unique(link for a in stages.values() for link in a.meta["licences"]),
        "use": [
            "import marrow",
            f"model = marrow.load({shown(out) + '/' + ship!r})",
            f"print(marrow.predict({shown(out) + '/' + ship!r}, ['photo.jpg']))",
        ],
        "versions": versions(),
        "thumbnails": thumbnails(measured["teacher"], measured[ship], source, labels),
    }


def findings(chosen: Plan) -> list[dict[str, Any]]:
    """What `marrow data` says about the images of this run."""
    stages = chosen.recipe["stages"]
    train = next(s for s in stages if s["name"] == "baseline")["data"]
    sources = {"train": {k: v for k, v in train["train"][0].items() if k != "per_class"}, "val": train["val"][0]}
    extra = next(s for s in stages if s["name"] == "student")["data"]["train"][1:]
    sources |= {"test": chosen.test, **({"unlabelled": extra[0]} if extra else {})}
    return survey({name: open_source(given, name) for name, given in sources.items()})["findings"]


def shown(folder: Path) -> str:
    """A folder as a page that is passed on may name it: no way to it from the root of a disk."""
    return folder.as_posix() if not folder.is_absolute() else folder.name


def machine() -> dict[str, Any]:
    """What the figures were measured on; no host or user name."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": name, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu}


def _unique(links: Any) -> list[dict]:
    return list({json.dumps(link, sort_keys=True): link for link in links}.values())


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text + "\n", encoding="utf-8")
    os.replace(temporary, file)
