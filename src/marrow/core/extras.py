"""Optional dependencies: which extra brings what, and what is missing for a file."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from typing import Iterator

from .catalogue import PACKAGE

# Where a module's name is not its distribution's with "_" for "-".
DISTRIBUTIONS = {"faiss": "faiss-cpu", "skimage": "scikit-image", "open_clip": "open_clip_torch"}


@lru_cache(maxsize=None)
def extras() -> dict[str, tuple[str, ...]]:
    """Extra -> the distributions it brings, from marrow's own metadata."""
    found: dict[str, list[str]] = {}
    for line in metadata.requires("marrow") or ():
        match = re.match(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]", line)
        if match and match[1] != "marrow":  # `all` and `dev` name other extras
            found.setdefault(match[2], []).append(match[1])
    return {k: tuple(v) for k, v in found.items()}


def missing_for(folder: str, stem: str) -> Iterator[str]:
    """One sentence for each module that the file imports at its top and that is not installed."""
    for module in _imports(folder, stem):
        if find_spec(module) is None:
            wanted = DISTRIBUTIONS.get(module, module.replace("_", "-"))
            extra = next((e for e, brings in extras().items() if wanted.lower() in map(_plain, brings)), None)
            package = f"marrow[{extra}]" if extra else wanted
            yield f'This step needs {wanted}. Install it with: pip install "{package}"'


def _imports(folder: str, stem: str) -> list[str]:
    tree = ast.parse((PACKAGE / folder / f"{stem}.py").read_text(encoding="utf-8"))
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return sorted({name.partition(".")[0] for name in names})


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")
