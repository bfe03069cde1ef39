"""A folder of image files: labelled by sub-folder, or flat."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Iterator

import numpy as np

from ..core.errors import MarrowError
from ..core.source import Source, Unreadable
from .decode import decode
from .hashing import fraction

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")


class ImageFolder(Source):
    """Every image below `root`, sorted by path; the label is the name of the first sub-folder.

    classes: the label names to count by, when several folders must agree (train, val, test). Hidden files and files
    that are no images are passed over; links that lead out of the folder are not followed. Nothing is written there.
    """

    def __init__(self, root: Path, where: str, labelled: bool = True, classes: list[str] | None = None):
        self.root, self._where = os.path.abspath(root), where
        self._inside = os.path.realpath(root)
        paths, flat = [], 0
        for path in sorted(self._files("")):
            paths.append(path)
            flat += b"/" not in path
        if not paths:
            raise MarrowError(
                f"no images in {root}",
                where=where,
                hint=f"Known files: {', '.join(SUFFIXES)}; links that lead out of the folder are not followed.",
            )
        if labelled and 0 < flat < len(paths):
            raise MarrowError(
                f"{root} has images both at its top ({flat}) and in sub-folders ({len(paths) - flat}), so it is unclear "
                "whether sub-folders are classes",
                where=where,
                hint="Move the images at the top into a class, or give 'labels: false' to use all without labels.",
            )
        # One block of bytes instead of a million strings: it is shared by forked workers and not touched by reading.
        self._paths, self._ends = b"".join(paths), np.cumsum([len(p) for p in paths])
        self._fractions = np.full(len(paths), np.nan)
        self._labels = None
        if labelled and not flat:
            folders = [os.fsdecode(p.split(b"/", 1)[0]) for p in paths]
            self.classes = classes or class_folders(root)
            number = {name: i for i, name in enumerate(self.classes)}
            self._labels = np.array([number[f] for f in folders], np.int32)

    def _files(self, below: str) -> Iterator[bytes]:
        """Relative paths of the images under `below`, with / between the parts on every system."""
        with os.scandir(os.path.join(self.root, below)) as entries:
            for entry in entries:
                if entry.name.startswith((".", "__MACOSX")):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    yield from self._files(f"{below}{entry.name}/")
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file() and self._is_inside(entry):
                    yield os.fsencode(below + entry.name)

    def _is_inside(self, entry: os.DirEntry) -> bool:
        return not entry.is_symlink() or os.path.realpath(entry.path).startswith(self._inside + os.sep)

    def __len__(self) -> int:
        return len(self._ends)

    def _relative(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.fsdecode(self._paths[self._ends[index - 1] if index else 0 : self._ends[index]])

    def _read(self, index: int) -> bytes:
        relative = self._relative(index)
        try:
            with open(os.path.join(self.root, relative), "rb", buffering=0) as file:
                return file.read()
        except OSError as error:
            raise Unreadable(self.name(index), error.strerror or str(error)) from None

    def __getitem__(self, index: int) -> dict:
        example = {"image": decode(self._read(index), self.name(index))}
        return example if self._labels is None else {**example, "label": int(self._labels[index])}

    def fraction(self, index: int) -> float:
        if np.isnan(self._fractions[index]):
            try:
                content = self._read(index)
            except Unreadable as error:  # it belongs somewhere, and is counted where it is read
                content = str(error).encode("utf-8", "replace")
            self._fractions[index] = fraction(content)
        return float(self._fractions[index])

    def name(self, index: int) -> str:
        return self._relative(index).encode("utf-8", "replace").decode()

    def label(self, index: int) -> int | None:
        return None if self._labels is None else int(self._labels[index])


def class_folders(root: Path) -> list[str]:
    """The names of the visible sub-folders, sorted."""
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries
                      if e.is_dir(follow_symlinks=False) and not e.name.startswith((".", "__MACOSX")))  # fmt: skip
