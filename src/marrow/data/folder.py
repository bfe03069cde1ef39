"""A folder of image files: labelled by sub-folder, or flat."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from ..core.errors import MarrowError
from ..core.source import Skipped, Source, Unreadable
from .decode import TOO_LARGE, decode, undecoded
from .hashing import fraction

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")
CLOSED = "folders that cannot be opened"
MAX_BYTES = 2**30  # a file beyond it is no photo, and reading it could take all memory


class ImageFolder(Source):
    """Every image below `root`, sorted by path; the label is the name of the first sub-folder.

    classes: the label names to count by, when several folders must agree (train, val, test). Hidden files are passed
    over in silence; `skipped` counts the other files, links that lead out of the folder, sub-folders that cannot be
    opened, and those that are no class because no image lies in them. Nothing is written there.
    """

    def __init__(self, root: Path, where: str, labelled: bool = True, classes: list[str] | None = None):
        self.root, self._where = os.path.abspath(root), where
        paths, flat, left_out = [], 0, _LeftOut(self.root)
        for path in sorted(image_files(self.root, skip=left_out.add)):
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
            first = {raw: _printable(raw) for raw in {p.split(b"/", 1)[0] for p in paths}}
            self.classes = classes or sorted(first.values())
            for name in sorted({*sub_folders(root)}.difference(first.values(), left_out.closed)):
                left_out.add("sub-folders without an image", name)
            number = {raw: self.classes.index(name) for raw, name in first.items()}
            self._labels = np.fromiter((number[p.split(b"/", 1)[0]] for p in paths), np.int32, len(paths))
        self._skipped = left_out.rows()

    def __len__(self) -> int:
        return len(self._ends)

    def relative(self, index: int) -> str:
        """The path below `root`, as the file system knows it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return os.fsdecode(self._paths[self._ends[index - 1] if index else 0 : self._ends[index]])

    def stored(self, index: int) -> bytes:
        relative = self.relative(index)
        try:
            with open(os.path.join(self.root, relative), "rb", buffering=0) as file:
                if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                    raise Unreadable(self.name(index), f"{TOO_LARGE} ({size:,} bytes, at most {MAX_BYTES:,} are read)")
                return file.read()
        except OSError as error:
            raise Unreadable(self.name(index), error.strerror or str(error)) from None

    def __getitem__(self, index: int) -> dict:
        return self._example(index, decode(self.stored(index), self.name(index)))

    def undecoded(self, index: int) -> dict:
        return self._example(index, undecoded(self.stored(index), self.name(index)))

    def _example(self, index: int, image: Any) -> dict:
        return {"image": image} if self._labels is None else {"image": image, "label": int(self._labels[index])}

    def fraction(self, index: int) -> float:
        if np.isnan(self._fractions[index]):
            try:
                content = self.stored(index)
            except Unreadable as error:  # it belongs somewhere, and is counted where it is read
                content = str(error).encode("utf-8", "replace")
            self._fractions[index] = fraction(content)
        return float(self._fractions[index])

    def name(self, index: int) -> str:
        return _printable(os.fsencode(self.relative(index)))

    def label(self, index: int) -> int | None:
        return None if self._labels is None else int(self._labels[index])

    def skipped(self) -> tuple[Skipped, ...]:
        return self._skipped


def sub_folders(root: Path) -> list[str]:
    """The names of the visible sub-folders, sorted and printable."""
    return sorted(_printable(name) for name in _sub_folders(root))


def class_folders(root: Path) -> list[str]:
    """The names of the sub-folders that hold an image, sorted."""
    held = (n for n in _sub_folders(root) if next(image_files(str(root), f"{os.fsdecode(n)}/"), None) is not None)
    return sorted(_printable(name) for name in held)


def _sub_folders(root: Path) -> list[bytes]:
    with os.scandir(root) as entries:
        return [os.fsencode(e.name) for e in entries if not _hidden(e) and e.is_dir(follow_symlinks=False)]


def image_files(root: str, below: str = "", skip: Callable[[str, str], None] | None = None) -> Iterator[bytes]:
    """Paths of the images under `below`, relative to `root`, with / between the parts on every system.

    skip: is told the reason and the name of what is passed over.
    """
    skip = skip or (lambda reason, name: None)
    inside = os.path.realpath(root) + os.sep
    folders = [below]
    while folders:
        below = folders.pop()
        try:
            entries = os.scandir(os.path.join(root, below))
        except OSError:
            if not below:
                raise
            skip(CLOSED, below)
            continue
        with entries:
            for entry in entries:
                name = below + entry.name
                if _hidden(entry):
                    continue
                if entry.is_symlink() and (reason := _why_not_followed(entry, inside)):
                    skip(reason, name)
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(f"{name}/")
                elif not entry.name.lower().endswith(SUFFIXES):
                    skip("files that are no images by their ending", name)
                elif not entry.is_file():
                    skip("neither files nor folders", name)
                else:
                    yield os.fsencode(name)


def _why_not_followed(link: os.DirEntry, inside: str) -> str | None:
    try:
        mode = link.stat().st_mode
    except OSError:
        return "links that lead nowhere or in a circle"
    if not os.path.realpath(link.path).startswith(inside):
        return "links out of the folder"
    return "links to folders" if stat.S_ISDIR(mode) else None


def _hidden(entry: os.DirEntry) -> bool:
    return entry.name.startswith((".", "__MACOSX"))


def _printable(path: bytes) -> str:
    """What is no UTF-8 is written out (caf\\xe9), so that reports can hold it and different names stay different."""
    return path.decode("utf-8", "backslashreplace")


class _LeftOut:
    """Counts what a walk passes over."""

    def __init__(self, root: str):
        self.root, self.closed, self._found = root, set[str](), dict[str, tuple[int, list[str]]]()

    def add(self, reason: str, name: str) -> None:
        count, examples = self._found.get(reason, (0, []))
        self._found[reason] = count + 1, sorted([*examples, _printable(os.fsencode(name))])[:3]
        if reason == CLOSED:
            self.closed.add(_printable(os.fsencode(name.split("/", 1)[0])))

    def rows(self) -> tuple[Skipped, ...]:
        return tuple(Skipped(self.root, reason, n, tuple(names)) for reason, (n, names) in self._found.items())
