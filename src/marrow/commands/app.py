"""The command line itself: its options, what is common to all commands, and how results are printed."""

from __future__ import annotations

import json as json_format
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Sequence

import typer
from typer.core import TyperGroup

from ..core.errors import Interrupted


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


def printed(text: str) -> None:
    """To stdout, from one process of a run only."""
    if os.environ.get("RANK", "0") != "0":
        return
    try:
        print(text, flush=True)
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit() from None


def print_rows(rows: Sequence[dict], json: bool) -> None:
    from ..text_table import table

    printed(json_format.dumps(list(rows), indent=1, default=str) if json else table(rows))


def launch(devices: int) -> None:
    """Run this very command once a device, and end as they end; each of those processes passes by here."""
    from ..core.launch import launched, relaunch

    if devices == 1 or launched():
        return
    raise typer.Exit(relaunch(sys.argv[1:], devices))
