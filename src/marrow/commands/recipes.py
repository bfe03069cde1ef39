"""Recipes: `marrow run`, `check` and `claim`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import MarrowError
from .app import Changed, Device, Json, Out, Overrides, RecipeFile, Resume, app, launch, print_rows


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
    from ..core.recipe import read

    checked = read(recipe, overrides or ())  # before torch is imported
    launch(devices)
    from .. import backbones as backbones  # registers them
    from ..run import run as carry_out

    artifacts = carry_out(checked, out or Path("runs") / recipe.stem, resume=resume, allow_changed=allow_changed,
                          device=device)  # fmt: skip
    rows = [{"stage": a.meta["stage"], "kind": a.kind, "metric": m.get("metric"), "value": m.get("value"),
             "folder": str(a.path)} for a in artifacts for m in a.rows[:1] or [{}]]  # fmt: skip
    print_rows(rows, json)


@app.command()
def check(
    recipe: RecipeFile,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Check a recipe; print its models and their cost.

    Everything that can fail before data is read is checked: names, types, paths, fit of method and model.
    """
    from ..core.recipe import read

    checked = read(recipe, overrides or ())
    from .. import backbones as backbones  # registers them
    from ..core.fit_check import check_fit

    problems, rows = check_fit(checked)
    if problems:
        raise MarrowError.listing(problems, recipe.name)
    print_rows(rows, json)


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
    from .. import claims

    if not names and not all_:
        columns = ("system", "verdict", "difference", "ci95", "measure", "says")
        print_rows([{c: row.get(c) for c in columns} for row in claims.ledger()], json)
        return
    results = [claims.prove(name, out=out, device=device) for name in names or claims.known()]
    print_rows([{k: r[k] for k in ("system", "verdict", "difference", "ci95", "minutes")} for r in results], json)
