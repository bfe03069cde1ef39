"""The commands: parse, call, print. Nothing heavy is imported before one runs."""

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Sequence

import typer
from typer.core import TyperGroup

from .core.errors import Interrupted, MarrowError


class Stopped(Exception):
    """Ctrl-C on its way to `main`; the message is the command that goes on, if a checkpoint was written."""


class Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:  # typer would end without a word
            raise Stopped(str(stopped) if isinstance(stopped, Interrupted) else "") from None


app = typer.Typer(
    cls=Commands, name="marrow", rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False,
    no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]},
    help="Takes what is worth keeping out of a big neural network.\n\n"
         "Exit codes: 0 done, 1 a bug, 2 something to put right, 3 a budget or a parity check failed, 130 interrupted. "
         "--debug, anywhere, shows the traceback of an error.",
)  # fmt: skip

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")]
Out = Annotated[Path | None, typer.Option(help="Folder to write into.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what an interrupted run left.")]
Changed = Annotated[bool, typer.Option("--allow-changed", help="Resume although the recipe, data or versions changed.")]
Model = Annotated[Path, typer.Argument(help="Folder of an artifact.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="A recipe.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="A.B=C", help="Values to replace.")]
Split = Annotated[str | None, typer.Option(help="train, val or test.")]


def _print(text: str) -> None:
    """To stdout, from one process of a run only."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit() from None


def _rows(rows: Sequence[dict], json: bool) -> None:
    from .text_table import table

    _print(json_format.dumps(list(rows), indent=1, default=str) if json else table(rows))


def _launch(devices: int) -> None:
    """Run this very command once a device, and end as they end; each of those processes passes by here."""
    from .core.launch import launched, relaunch

    if devices == 1 or launched():
        return
    raise typer.Exit(relaunch(sys.argv[1:], devices))


@app.command()
def make(
    data: Annotated[str | None, typer.Option(help="Images: a folder, parquet file, shards. Default: digits.")] = None,
    val: Annotated[str | None, typer.Option(help="Images for choosing, if not a part of --data.")] = None,
    test: Annotated[str | None, typer.Option(help="Images for measuring, if not a part of --data.")] = None,
    unlabelled: Annotated[str | None, typer.Option(help="More images, without labels.")] = None,
    teacher: Annotated[
        str | None, typer.Option(help="The big model: the folder of an artifact. Default: trained.")
    ] = None,
    student: Annotated[str | None, typer.Option(help="The small model: the name of a backbone.")] = None,
    img_size: Annotated[int | None, typer.Option(min=1, help="Pixels of a side.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images of a training step.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the images, each training stage.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    skip: Annotated[str | None, typer.Option(help="Stages to leave out, with commas: prune.")] = None,
    device: Device = "auto",
    out: Out = None,
    resume: Resume = False,
    allow_changed: Changed = False,
    json: Json = False,
) -> None:
    """The main job: from images to a small, proven model.

    Teacher, distilled student and its baseline, int8, ONNX, verified, with a report. Without arguments on digits.
    """
    from . import backbones as backbones  # registers them
    from .make import make as carry_out
    from .text_table import table

    report = carry_out(
        data, val=val, test=test, unlabelled=unlabelled, teacher=teacher, student=student, img_size=img_size,
        batch=batch, epochs=epochs, device=device, seed=seed,
        skip=tuple(w.strip() for w in (skip or "").split(",") if w.strip()), out=out, resume=resume,
        allow_changed=allow_changed,
    )  # fmt: skip
    if json:
        _print(json_format.dumps(report, indent=1, default=str))
        return
    columns = ("name", "metric", "value", "n", "params", "macs", "bytes", "median ms", "reason")
    rows = [{**row, "median ms": (row.get("latency_ms") or {}).get("median")} for row in report["rows"]]
    _print(table(rows, [c for c in columns if any(r.get(c) is not None for r in rows)]))
    _print("\n".join(["", str(report["verdict"]), "", *report["use"]]))


@app.command()
def data(
    images: Annotated[str, typer.Argument(metavar="SRC", help="A folder, parquet file, shards, a name.")],
    root: Annotated[str | None, typer.Option(help="For torchvision:NAME, the folder with its files.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    json: Json = False,
) -> None:
    """Look at a data set before it is used: classes, damage, copies, leaks; each with a remedy. Nothing is written."""
    from .survey import as_text, failed, survey_of

    found = survey_of(images, root)
    _print(json_format.dumps(found, indent=1) if json else as_text(found))
    if sentence := failed(found, strict):
        raise MarrowError(sentence)


@app.command()
def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    allow_changed: Changed = False,
    devices: Annotated[int, typer.Option(min=1, help="Processes of this machine, one a device.")] = 1,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Run a recipe.

    A stage whose recipe, data and parents did not change is not run again.
    """
    from .core.recipe import read

    checked = read(recipe, overrides or ())  # before torch is imported
    _launch(devices)
    from . import backbones as backbones  # registers them
    from .run import run as carry_out

    artifacts = carry_out(checked, out or Path("runs") / recipe.stem, resume=resume, allow_changed=allow_changed,
                          device=device)  # fmt: skip
    rows = [{"stage": a.meta["stage"], "kind": a.kind, "metric": m.get("metric"), "value": m.get("value"),
             "folder": str(a.path)} for a in artifacts for m in a.meta["metrics"][:1] or [{}]]  # fmt: skip
    _rows(rows, json)


@app.command()
def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Check a recipe; print its models and their cost.

    Everything that can fail before data is read is checked: names, types, paths, fit of method and model.
    """
    from .core.recipe import read

    checked = read(recipe, overrides or ())
    from . import backbones as backbones  # registers them
    from .core.fit_check import check_fit

    problems, rows = check_fit(checked)
    if problems:
        raise MarrowError.listing(problems, recipe.name)
    _rows(rows, json)


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="methods, shrinkers, probes, exporters, tasks, backbones")] = None,
    pattern: Annotated[str | None, typer.Argument(help="Names to show, such as 'resnet*'.")] = None,
    json: Json = False,
) -> None:
    """What there is. `marrow list backbones 'resnet*'` searches all of timm."""
    from .show import listing
    from .text_table import table

    found = listing(kind, pattern)
    if json:
        _print(json_format.dumps(found, indent=1))
        return
    _print("\n\n".join(f"{name}\n{table(rows)}" for name, rows in found.items() if rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, task, backbone, ..., or the folder of an artifact.")],
    json: Json = False,
) -> None:
    """One thing in full.

    Arguments, needs, parameters, MACs; for an artifact metrics, lineage, files, licences.
    """
    from .show import as_text, describe

    facts = describe(name)
    _print(json_format.dumps(facts, indent=1) if json else as_text(facts))


@app.command()
def predict(
    artifact: Model,
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    json: Json = False,
) -> None:
    """What the model says about images."""
    from . import predict as answer

    rows = answer(artifact, files)
    _rows(rows if json else [{k: v for k, v in row.items() if k != "top"} for row in rows], json)


@app.command()
def evaluate(
    artifact: Model,
    data: Annotated[str, typer.Option(help="Labelled images: a folder, parquet file, shards, a name.")],
    split: Split = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure a model on labelled images."""
    from . import evaluate as measure

    _rows(measure(artifact, _source(data, split), device=device), json)


@app.command()
def export(
    artifact: Model,
    data: Annotated[str, typer.Option(help="Images to check the file with, and to calibrate int8 on.")],
    out: Annotated[Path, typer.Option(help="Folder of the new artifact.")],
    format: Annotated[str, typer.Option(help="onnx or int8.")] = "onnx",
    split: Split = None,
    json: Json = False,
) -> None:
    """Write a model as a file for a runtime.

    The file is run in that runtime and compared with the model on real images; exit code 3 when they disagree.
    """
    from . import backbones as backbones  # registers them
    from .run import export as ship
    from .text_table import pairs

    made = ship(artifact, format, out, data=_source(data, split))
    facts = {"folder": str(made.path), **(made.meta["runtime"] or {})}
    _print(json_format.dumps(facts, indent=1) if json else pairs(facts))


@app.command()
def bench(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders of artifacts, measured in turns.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    json: Json = False,
) -> None:
    """Measure latency, side by side."""
    from . import backbones as backbones  # registers them
    from .ship.bench import bench as measure

    rows = measure(artifacts, threads=threads)
    if json:
        _rows(rows, json)
        return
    columns = ("name", "runtime", "version", "precision", "threads", "median", "p90", "bytes", "over_fp32", "note")
    kept = [c for c in columns if any(row.get(c) is not None for row in rows)]
    _rows([{c: row.get(c) for c in kept} for row in rows], json)
    _print(f"Milliseconds at batch 1. This processor has {rows[0]['cpu']}.")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """One self-contained page about runs."""
    from .ship.report import from_runs

    from_runs(runs, out)
    _print(str(out))


@app.command()
def examine(
    probe: Annotated[str, typer.Argument(help="A probe; `marrow list probes` names them.")],
    artifact: Model,
    data: Annotated[str | None, typer.Option(help="Images that the probe reads.")] = None,
    split: Split = None,
    json: Json = False,
) -> None:
    """Probe or audit a model; nothing is changed."""
    from . import backbones as backbones  # registers them
    from .run import examine as look

    _rows(look(probe, artifact, _source(data, split) if data else None).rows, json)


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed and what is missing for what."""
    from .doctor import advice, examine_machine
    from .show import as_text

    facts = examine_machine()
    told = advice(facts)
    if json:
        _print(json_format.dumps({**facts, "advice": told}, indent=1))
    else:
        _print(as_text(facts) + "\n\n" + ("\n".join(told) or "Nothing is missing."))


@app.command()
def claim(
    names: Annotated[list[str] | None, typer.Argument(help="Claims to prove; none: print the ledger.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every claim.")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/claims"),
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Run the small experiment behind a paper.

    Without names, print what was found so far. An interrupted claim goes on when it is started again.
    """
    from . import claims

    if not names and not all_:
        columns = ("system", "verdict", "difference", "ci95", "measure", "says")
        _rows([{c: row.get(c) for c in columns} for row in claims.ledger()], json)
        return
    results = [claims.prove(name, out=out, device=device) for name in names or claims.known()]
    _rows([{k: r[k] for k in ("system", "verdict", "difference", "ci95", "minutes")} for r in results], json)


def _source(data: str, split: str | None) -> dict[str, str]:
    return {"images": data, **({"split": split} if split else {})}
