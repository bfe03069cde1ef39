"""What there is: `marrow list`, `show` and `doctor`."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from .app import Json, app, printed


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help="methods, shrinkers, probes, exporters, tasks, backbones")] = None,
    pattern: Annotated[str | None, typer.Argument(help="Names to show, such as 'resnet*'.")] = None,
    json: Json = False,
) -> None:
    """What there is. `marrow list backbones 'resnet*'` searches all of timm."""
    from ..show import listing
    from ..text_table import table

    found = listing(kind, pattern)
    if json:
        printed(json_format.dumps(found, indent=1))
        return
    printed("\n\n".join(f"{name}\n{table(rows)}" for name, rows in found.items() if rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A method, task, backbone, ..., or the folder of an artifact.")],
    json: Json = False,
) -> None:
    """One thing in full.

    Arguments, needs, parameters, MACs; for an artifact metrics, lineage, files, licences.
    """
    from ..show import as_text, describe

    facts = describe(name)
    printed(json_format.dumps(facts, indent=1) if json else as_text(facts))


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed and what is missing for what."""
    from ..doctor import advice, examine_machine
    from ..show import as_text

    facts = examine_machine()
    told = advice(facts)
    if json:
        printed(json_format.dumps({**facts, "advice": told}, indent=1))
    else:
        printed(as_text(facts) + "\n\n" + ("\n".join(told) or "Nothing is missing."))
