"""`marrow make`, the main job: teacher -> distilled student and baseline -> pruned -> int8 -> ONNX -> verified -> report."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, Mapping

import torch

from ..core.artifact import Artifact
from ..core.recipe import Recipe
from ..core.versions import versions
from ..core.whole_file import write_text
from ..data import open_source
from ..run import run
from ..run_folder import RunFolder
from ..ship import report as page
from ..ship.curves import read as read_curves
from ..stages import public
from ..survey import survey
from . import budgets, notes, prepare, rows
from .budgets import Budgets
from .estimate import as_text
from .measure import Measured, drop, measure
from .plan import Plan
from .prepare import Prepared
from .verdict import verdict
from .wishes import Wishes


def make(
    data: str | None = None,
    *,
    val: str | None = None,
    test: str | None = None,
    unlabelled: str | None = None,
    group_by: str | None = None,
    teacher: str | None = None,
    class_map: str | None = None,
    student: str | None = None,
    pretrain: str | None = None,
    compare: str | None = None,
    target: str = "cpu",
    max_latency: str | None = None,
    max_size: str | None = None,
    max_drop: float | None = None,
    minutes: float | None = None,
    img_size: int | None = None,
    batch: int | None = None,
    epochs: float | None = None,
    device: str = "auto",
    seed: int = 0,
    skip: tuple[str, ...] = (),
    out: str | Path | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    dry_run: bool = False,
    thumbnails: bool = True,
    quiet: bool = False,
) -> dict[str, Any]:
    """Carry out the whole chain and return the report, which also lies in `out` as report.json and report.html.

    data: images (a folder with one sub-folder a class, or without; parquet, shards); None takes the embedded digits.
    unlabelled: more images for the student. group_by: a pattern in the images' names; what it finds, a scene or a
    patient, is never in two splits. teacher: an artifact folder, a timm name with the weights of the hub, NAME=FILE with
    local ones, or a folder as the hub has them; None trains one. class_map: a file from its classes to the data's.
    pretrain: a method of teach, such as "pixpro", that trains the student's backbone on all images before; labels are
    ignored there. compare: a ready-made small model, fine-tuned as a further row. max_latency ("15ms"), max_size
    ("10MB"), max_drop (points below the teacher), minutes: budgets; the report's `budgets` says which were met, and
    `accept` which options instead of them would accept what was made. skip: "baseline", "finetune", "prune", "int8".
    out: default `runs/` + the data's name + 8 digits, the same for the same call, which then finds what it made before.
    dry_run: only the plan, with the minutes, memory and disk it will take; nothing is written.
    """
    limits = Budgets.read(max_latency, max_size, max_drop, minutes)
    wishes = Wishes(data, val, test, unlabelled, group_by, teacher, class_map, student, pretrain, compare, target, limits,
                    img_size, batch, epochs, device, seed, tuple(skip))  # fmt: skip
    ready = prepare.prepare(wishes, Path(out) if out is not None else None, again=allow_changed)
    if dry_run:
        return prepare.described(ready)
    folder = RunFolder(ready.out, Recipe.from_dict(ready.plan.recipe), resume=resume, allow_changed=allow_changed)
    if not quiet:
        kept = " Stages that were finished before are kept." if ready.before else ""
        print(as_text(ready.estimate) + kept, file=sys.stderr)
    with folder:
        notes.write(ready.out, ready.noted)  # before the recipe, whose lengths may follow from what is noted
        taken = notes.Taken(ready.out, ready.noted)
        made = run(ready.plan.recipe, folder, resume=resume, allow_changed=allow_changed, device=device, quiet=quiet,
                   after=taken.after)  # fmt: skip
        stages = {a.meta["stage"]: a for a in made}
        measured = measure(ready.plan, stages, ready.out, device)
        report = _report(ready, stages, measured, wishes, taken)
        source = open_source(ready.plan.test, "test")
        pictures = rows.thumbnails(measured.test, report["ship"], source, ready.plan.case.classes) if thumbnails else []
        _write(ready.out, report, pictures, stages)
    return {**report, "out": str(ready.out)}


def _report(
    ready: Prepared, stages: Mapping[str, Artifact], measured: Measured, wishes: Wishes, taken: notes.Taken
) -> dict[str, Any]:
    plan, case, limits = ready.plan, ready.plan.case, wishes.budgets
    best = budgets.choose(limits, measured.candidates())
    ship, lost = best.name, drop(measured.test, best.name)
    found = findings(plan)
    actual = taken.all()
    judged = budgets.judged(
        limits, latency_ms=best.latency_ms, bytes=best.bytes, drop=lost, minutes=actual["minutes"]["all"]
    )
    listed = rows.rows(plan, measured, ship)
    missed = not all(b["met"] for b in judged)
    folder = shown(ready.out) + "/" + ship
    return {
        "name": plan.name,
        "task": "embed" if case.kind == "features" else "classify",
        "data": plan.data,
        "device": machine(),
        "rows": listed,
        "pretrained": plan.pretrained,
        "baseline": case.no_baseline or "the student trained without the teacher: the same steps, on the labels alone",
        "ship": ship,
        "verdict": verdict(listed, ship, found, judged, plan.pretrained or ""),
        "budgets": judged,
        "accept": budgets.accepting(limits, best, drop=lost) if missed else None,
        "choices": plan.choices,
        "findings": found,
        "per_class": rows.per_class(measured.test, ship, case.classes),
        "layers": rows.layers(measured.models),
        "confusion": rows.confusion(measured.test, ship, case.classes),
        "estimate": prepare.as_json(ready.estimate),
        "actual": actual,
        "early": taken.early,
        "recipe": Recipe.from_dict(public(plan.recipe)).to_yaml(),
        "lineage": [{"name": n, "kind": a.kind, "hash": a.hash, "parents": a.meta["parents"]} for n, a in stages.items()],
        "licences": _unique(link for a in stages.values() for link in a.meta["licences"]),
        "use": ["import marrow", f"model = marrow.load({folder!r})", f"print(marrow.predict({folder!r}, ['photo.jpg']))"],
        "versions": versions(),
    }  # fmt: skip


def findings(plan: Plan) -> list[dict[str, Any]]:
    """What `marrow data` says about the images of this run."""
    sources = {"train": plan.train, "val": plan.val, "test": plan.test}
    if plan.unlabelled:  # whole: copies of the others in it are a finding, though they are not trained on
        sources["unlabelled"] = {k: v for k, v in plan.unlabelled.items() if k != "without"}
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


def _write(out: Path, report: Mapping[str, Any], pictures: list, stages: Mapping[str, Artifact]) -> None:
    text = json.dumps(report, indent=1, allow_nan=False)
    write_text(out / "report.json", text + "\n")
    page.write(report, out / "report.html", curves=read_curves(out / "logs"), thumbnails=pictures)
    # The pruned student's files, unless the unpruned one's is what is shipped.
    before = "student_" if report["ship"].startswith("student_") else ""
    for name, file in (("fp32", "model.onnx"), ("int8", "model.int8.onnx")):
        if artifact := stages.get(before + name):
            shutil.copyfile(artifact.path / "model.onnx", out / f".{file}.tmp")
            os.replace(out / f".{file}.tmp", out / file)


def _unique(links: Any) -> list[dict]:
    return list({json.dumps(link, sort_keys=True): link for link in links}.values())
