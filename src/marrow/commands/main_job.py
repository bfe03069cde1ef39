"""`marrow make` and `marrow data`."""

from __future__ import annotations

import json as json_format
from typing import Annotated, Any

import typer

from ..core.errors import BudgetMissed, MarrowError
from .app import Changed, Device, Json, Out, Resume, app, printed


@app.command()
def make(
    data: Annotated[str | None, typer.Option(help="Images: a folder, parquet file, shards. Default: digits.")] = None,
    val: Annotated[str | None, typer.Option(help="Images for choosing, if not a part of --data.")] = None,
    test: Annotated[str | None, typer.Option(help="Images for measuring, if not a part of --data.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="More images, without labels.")] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Pattern in file names; images with the same find stay in one split.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Big model: an artifact, a timm name, NAME=FILE, hf:NAME. Default: trained.")
    ] = None,
    class_map: Annotated[str | None, typer.Option(help="YAML file: the teacher's class: yours.")] = None,
    student: Annotated[str | None, typer.Option(help="The small model, as --teacher; a name is untrained.")] = None,
    pretrain: Annotated[
        str | None, typer.Option(help="Train the student's backbone first, without labels: pixpro, mae, tinymim, ...")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(help="A ready-made small model, fine-tuned as a further row; as --teacher.")
    ] = None,
    target: Annotated[str, typer.Option(help="What it shall run on: cpu.")] = "cpu",
    max_latency: Annotated[str | None, typer.Option(help="Of an image on one thread, such as 15ms.")] = None,
    max_size: Annotated[str | None, typer.Option(help="Of the shipped file, such as 10MB.")] = None,
    max_drop: Annotated[float | None, typer.Option(help="Points it may lose against the teacher.")] = None,
    minutes: Annotated[float | None, typer.Option(help="What the whole run may take.")] = None,
    img_size: Annotated[int | None, typer.Option(help="Pixels of a side.")] = None,
    batch: Annotated[int | None, typer.Option(help="Images of a training step.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the images, each training stage.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    skip: Annotated[str | None, typer.Option(help="Left out, with commas: baseline, finetune, prune, int8.")] = None,
    thumbnails: Annotated[bool, typer.Option(help="Show images in the report.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print plan, minutes, memory, disk; write nothing.")
    ] = False,
    device: Device = "auto",
    out: Out = None,
    resume: Resume = False,
    allow_changed: Changed = False,
    json: Json = False,
) -> None:
    """The main job: from images to a small, proven model.

    Teacher, distilled student and its baseline, pruned, int8, ONNX, verified, with a report. Without arguments on digits.
    Exit code 3 when a budget was missed: everything is written, and the nearest file is named.
    """
    from .. import backbones as backbones  # registers them
    from ..make import make as carry_out

    report = carry_out(
        data, val=val, test=test, unlabelled=unlabelled, group_by=group_by, teacher=teacher, class_map=class_map,
        student=student, pretrain=pretrain, compare=compare, target=target, max_latency=max_latency, max_size=max_size,
        max_drop=max_drop, minutes=minutes, img_size=img_size, batch=batch, epochs=epochs, device=device, seed=seed,
        skip=tuple(w.strip() for w in (skip or "").split(",") if w.strip()), out=out, resume=resume,
        allow_changed=allow_changed, dry_run=dry_run, thumbnails=thumbnails,
    )  # fmt: skip
    if json:
        printed(json_format.dumps(report, indent=1, default=str))
    else:
        printed(_planned(report) if dry_run else _told(report))
    if not all(budget["met"] for budget in report.get("budgets", ())):
        options = ("--out", report["out"], *report["accept"].split())
        raise BudgetMissed("a budget was not met; everything is written", options)


def _planned(report: dict[str, Any]) -> str:
    from ..text_table import table

    return "\n\n".join([table(report["stages"]), table(report["choices"]), report["takes"], f"It would be written to {report['out']}."])  # fmt: skip


def _told(report: dict[str, Any]) -> str:
    from ..text_table import table

    columns = ("name", "metric", "value", "n", "params", "macs", "bytes", "median ms", "reason")
    rows = [{**row, "median ms": (row.get("latency_ms") or {}).get("median")} for row in report["rows"]]
    shown = table(rows, [c for c in columns if any(r.get(c) is not None for r in rows)])
    return "\n".join([shown, "", str(report["verdict"]), "", f"{report['out']}/report.html", "", *report["use"]])


@app.command()
def data(
    images: Annotated[str, typer.Argument(metavar="SRC", help="A folder, parquet file, shards, a name.")],
    root: Annotated[str | None, typer.Option(help="For torchvision:NAME, the folder with its files.")] = None,
    group_by: Annotated[str | None, typer.Option(help="Pattern in file names; a find in two splits is a leak.")] = None,
    masks: Annotated[str | None, typer.Option(help="Folder of masks beside a folder of images.")] = None,
    void: Annotated[int | None, typer.Option(help="The class id in masks that means unknown.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    to_shards: Annotated[
        str | None, typer.Option(help="Copy it into tar shards in this new folder instead; resumable.")
    ] = None,
    shard_size: Annotated[str, typer.Option(help="Of a shard.")] = "256MB",
    json: Json = False,
) -> None:
    """Look at a data set before it is used: classes, damage, copies, leaks; each with a remedy. Nothing is written to it."""
    if to_shards:
        from ..data.write_shards import as_text as written
        from ..data.write_shards import write_shards

        if group_by or strict or void is not None:
            raise MarrowError("--group-by, --void and --strict belong to the look at the data, not to --to-shards")
        facts = write_shards(images, to_shards, shard_size, root, masks, lambda line: typer.echo(line, err=True))
        printed(json_format.dumps(facts, indent=1) if json else written(facts))
        return
    from ..survey import as_text, failed, survey_of

    found = survey_of(images, root, group_by, masks, void)
    printed(json_format.dumps(found, indent=1) if json else as_text(found))
    if sentence := failed(found, strict):
        raise MarrowError(sentence)
