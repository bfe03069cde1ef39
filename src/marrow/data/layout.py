"""What a path holds, and which splits it brings."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..core.errors import MarrowError
from .folder import sub_folders

SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def located(images: str) -> Path:
    """The path that `images` means; a bare name is also looked up in $MARROW_DATA."""
    path, shelf = Path(images), os.environ.get("MARROW_DATA")
    return path if path.exists() or not shelf else Path(shelf) / path


def data_files(folder: Path) -> list[Path]:
    """The .parquet files of a folder or of its `data` sub-folder, else its .tar shards; sorted by name."""
    for place, suffix in ((folder, "parquet"), (folder / "data", "parquet"), (folder, "tar")):
        if found := sorted(p for p in place.glob(f"*.{suffix}") if not p.name.startswith(".")):
            return found
    return []


def splits(folder: Path, where: str) -> dict[str, list[Path]]:
    """split -> its files, or its one sub-folder; empty where a folder brings no splits.

    Files: `train.parquet`, `train-00000-of-00004.parquet`, `validation_3.tar`. Sub-folders called train, val, test are
    splits when there are two or more of them, or nothing else.
    """
    if files := data_files(folder):
        named = {s: [f for f in files if re.fullmatch(rf"({'|'.join(words)})([-_.]?\d.*)?", f.stem, re.IGNORECASE)]
                 for s, words in SPLITS.items()}  # fmt: skip
        return {s: found for s, found in named.items() if found}
    folders = sub_folders(folder)
    named = {s: [folder / f for f in folders if f.lower() in words] for s, words in SPLITS.items()}
    named = {s: found for s, found in named.items() if found}
    for split, found in named.items():
        if len(found) > 1:
            raise MarrowError(
                f"{folder} has two folders for '{split}': {', '.join(f.name for f in found)}", where=where
            )
    if len(named) == 1 and len(folders) > 1:
        only = next(iter(named.values()))[0]
        if sub_folders(only):
            other = next(f for f in folders if f != only.name)
            raise MarrowError(f"is '{only.name}' in {folder} a split or a class? It holds sub-folders, and "
                              f"'{other}' stands beside it", where=where,
                              hint=f"Give the path of {only.name} itself.")  # fmt: skip
        return {}
    return named
