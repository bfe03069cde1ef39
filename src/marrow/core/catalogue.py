"""What there is: file stems, and the one class of the verb's contract that each file defines.

The file name is the registration. Listing reads the sources as text (`ast`) and imports nothing.
"""

from __future__ import annotations

import ast
import importlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from .errors import MarrowError, near

PACKAGE = Path(__file__).parent.parent
CONTRACTS = {"tasks": "Task", "teach": "Method", "shrink": "Shrinker", "examine": "Probe", "ship": "Exporter"}
VERBS = ("teach", "shrink", "examine", "ship")


@lru_cache(maxsize=None)
def class_node(folder: str, stem: str, contract: str) -> ast.ClassDef | None:
    """The class statement in `folder/stem.py` that derives directly from the contract, or None."""
    file = PACKAGE / folder / f"{stem}.py"
    if not file.is_file():
        return None
    found = [node for node in ast.parse(file.read_text(encoding="utf-8")).body
             if isinstance(node, ast.ClassDef) and any(ast.unparse(b) == contract for b in node.bases)]  # fmt: skip
    if len(found) > 1:
        raise MarrowError(f"{folder}/{stem}.py defines {len(found)} classes of contract {contract}; one is allowed")
    return found[0] if found else None


@lru_cache(maxsize=None)
def stems(folder: str) -> tuple[str, ...]:
    """The stems of a folder that define a class of its contract, in alphabetical order."""
    files = sorted((PACKAGE / folder).glob("*.py"))
    return tuple(f.stem for f in files if class_node(folder, f.stem, CONTRACTS[folder]))


def contract_class(folder: str, stem: str, where: str = "", contract: str | None = None) -> Any:
    """Import `marrow.<folder>.<stem>` and take the class of the contract that it defines.

    The only place where a string from a recipe or an artifact becomes code; the string must name a file of the package.
    """
    contract = contract or CONTRACTS[folder]
    node = class_node(folder, stem, contract) if stem.isidentifier() else None
    if node is None:
        raise MarrowError(f"unknown {contract.lower()} '{stem}'{near(stem, stems(folder))}", where=where)
    return getattr(importlib.import_module(f"marrow.{folder}.{stem}"), node.name)
