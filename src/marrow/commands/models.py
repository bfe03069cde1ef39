"""Models that were made: `marrow predict`, `evaluate`, `export`, `bench`, `report` and `examine`."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from .app import Device, Json, Model, Split, app, print_rows, printed

Objects = Annotated[
    str | None, typer.Option(help="For a model that reads measures of objects: otsu, or their class id in the masks.")
]


@app.command()
def predict(
    artifact: Model,
    files: Annotated[list[Path], typer.Argument(help="Images, or folders of them.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the masks of a model that segments.")] = None,
    objects: Objects = None,
    masks: Annotated[Path | None, typer.Option(help="Folder of masks that mark the objects.")] = None,
    json: Json = False,
) -> None:
    """What the model says about images."""
    from .. import predict as answer

    rows = answer(artifact, files, out=out, objects=objects, masks=masks)
    print_rows(rows if json else [{k: v for k, v in row.items() if k != "top"} for row in rows], json)


@app.command()
def evaluate(
    artifact: Model,
    data: Annotated[str, typer.Option(help="Labelled images: a folder, parquet file, shards, a name.")],
    split: Split = None,
    masks: Annotated[str | None, typer.Option(help="Folder of masks, for a model that segments.")] = None,
    void: Annotated[int | None, typer.Option(help="The class id in masks that means unknown.")] = None,
    objects: Objects = None,
    page: Annotated[
        Path | None, typer.Option(help="Write a page of pictures with truth and answer, for masks.")
    ] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Measure a model on labelled images."""
    from .. import evaluate as measure

    marked = int(objects) if objects and objects.isdecimal() else objects
    # Masks that mark an object leave the sub-folders what they are without masks, which is classes.
    more = {"masks": masks, "void": void, "objects": marked, "labels": True if masks and objects else None}
    source = {**_source(data, split), **{k: v for k, v in more.items() if v is not None}}
    rows = measure(artifact, source, device=device)
    if page is not None:
        from ..core.artifact import Artifact
        from ..data import open_source
        from ..ship.mask_page import write

        write(Artifact.open(artifact), open_source(source, "--data"), rows, page)
    print_rows(rows, json)


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
    from .. import backbones as backbones  # registers them
    from ..run import export as ship
    from ..text_table import pairs

    made = ship(artifact, format, out, data=_source(data, split))
    facts = {"folder": str(made.path), **(made.meta["runtime"] or {})}
    printed(json_format.dumps(facts, indent=1) if json else pairs(facts))


@app.command()
def bench(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders of artifacts, measured in turns.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of the runtime.")] = 1,
    json: Json = False,
) -> None:
    """Measure latency, side by side."""
    from .. import backbones as backbones  # registers them
    from ..ship.bench import bench as measure

    rows = measure(artifacts, threads=threads)
    if json:
        print_rows(rows, json)
        return
    columns = ("name", "runtime", "version", "precision", "threads", "median", "p90", "bytes", "over_fp32", "note")
    kept = [c for c in columns if any(row.get(c) is not None for row in rows)]
    print_rows([{c: row.get(c) for c in kept} for row in rows], json)
    printed(f"Milliseconds at batch 1. This processor has {rows[0]['cpu']}.")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs.")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """One self-contained page about runs."""
    from ..ship.report import from_runs

    from_runs(runs, out)
    printed(str(out))


@app.command()
def examine(
    probe: Annotated[str, typer.Argument(help="A probe; `marrow list probes` names them.")],
    artifact: Model,
    data: Annotated[str | None, typer.Option(help="Images that the probe reads.")] = None,
    split: Split = None,
    json: Json = False,
) -> None:
    """Probe or audit a model; nothing is changed."""
    from .. import backbones as backbones  # registers them
    from ..run import examine as look

    print_rows(look(probe, artifact, _source(data, split) if data else None).rows, json)


def _source(data: str, split: str | None) -> dict[str, str]:
    return {"images": data, **({"split": split} if split else {})}
