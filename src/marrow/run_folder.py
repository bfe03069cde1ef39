"""A run's folder: owned by one process, holding one recipe."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path
from typing import Any, Iterable, Iterator, Mapping

from .core.errors import MarrowError
from .core.recipe import Recipe, load
from .core.source_check import EMBEDDED
from .core.whole_file import write_text


class RunFolder:
    """Opens `path` for a run of `recipe`: locks it and sees that it holds the same recipe, or none yet.

    Raises MarrowError when a live process owns it, when it holds another recipe (unless `allow_changed`), when an
    unfinished stage waits there and `resume` was not given, when it cannot be written to, or when it lies inside the
    data. Of several ranks only the first is the `owner`; the others use the folder without asking.
    """

    def __init__(
        self, path: Path, recipe: Recipe, *, resume: bool = False, allow_changed: bool = False, owner: bool = True
    ):
        self.path, self._recipe, self._owner = Path(path), recipe, owner
        self.logs, self.checkpoints, self._lock = self.path / "logs", self.path / "checkpoints", self.path / ".lock"
        self.cache = Path(os.environ.get("MARROW_CACHE") or self.path / "cache")  # what teachers said
        self._resume, self._allow_changed = resume, allow_changed
        if owner:
            self._check()

    def _check(self) -> None:
        writable(self.path)
        outside(self.path, data_folders(self._recipe.to_dict()))
        outside(self.cache, data_folders(self._recipe.to_dict()), "MARROW_CACHE")
        file = self.path / "recipe.yaml"
        changes = list(differences(load(file), self._recipe.to_dict())) if file.is_file() else []
        if changes and not self._allow_changed:
            raise MarrowError("\n  ".join([f"{self.path} holds another run", *changes]), where="--out",
                              hint="Choose another folder, or give --allow-changed to redo what changed.")  # fmt: skip
        if (waiting := sorted(self.checkpoints.glob("*.pt"))) and not self._resume:
            raise MarrowError(f"{self.path} holds an unfinished run (stage {waiting[0].stem})", where="--out",
                              hint="Add --resume to go on, or choose another folder.")  # fmt: skip

    def __enter__(self) -> "RunFolder":
        if self._owner:
            self.path.mkdir(parents=True, exist_ok=True)
            self._held = _taken(self._lock)
            try:
                self._check()  # again: another run may just have ended
                self._tidy()
            except BaseException:
                self.__exit__()
                raise
        return self

    def begin(self) -> None:
        """Write down what runs."""
        if self._owner:
            self.logs.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            write_text(self.path / "recipe.yaml", self._recipe.to_yaml())

    def log(self, stage: str) -> Path:
        """The CSV of a stage; what is there of a training that left no checkpoint is forgotten, as it begins again."""
        file = self.logs / f"{stage}.csv"
        if not (self.checkpoints / f"{stage}.pt").exists():
            file.unlink(missing_ok=True)
        return file

    def __exit__(self, *exc: Any) -> None:
        if self._owner:
            if self.checkpoints.is_dir() and not any(self.checkpoints.iterdir()):
                self.checkpoints.rmdir()
            self._lock.unlink(missing_ok=True)
            os.close(self._held)

    def clear(self, stage: str) -> None:
        """Forget the checkpoints of a stage whose artifact is written."""
        if self._owner:
            for file in (self.checkpoints / f"{stage}.pt", *self.checkpoints.glob(f"{stage}-[0-9].pt")):
                file.unlink(missing_ok=True)

    def _tidy(self) -> None:
        """Remove what a killed process was still writing."""
        for pattern in (".*.tmp", ".*.old", "*/.*.tmp", "*/.*.old"):
            for left in self.path.glob(pattern):
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def writable(path: Path, where: str = "--out") -> None:
    """Raise where a run could not write its folder, before the work that it would hold."""
    there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise MarrowError(f"{there} is a file; a folder is needed", where=where)
    if not os.access(there, os.W_OK | os.X_OK):
        raise MarrowError(f"nothing can be written into {there}", where=where, hint="Choose another folder.")


def outside(path: Path, folders: Iterable[Path], where: str = "--out") -> None:
    """Raise where a run would write into one of these data folders."""
    for data in folders:
        if path.resolve().is_relative_to(data.resolve()):
            raise MarrowError(f"{path} lies inside the data ({data})", where=where,
                              hint="Nothing is written into a data folder; choose another.")  # fmt: skip


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Where two recipes differ, a line each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{place}.{key}" if place else str(key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new)):
            yield from differences(a, b, f"{place}[{i}]")
    elif old != new:
        yield f"{place}: {_short(old)} there, {_short(new)} now"


def data_folders(recipe: Mapping[str, Any]) -> Iterator[Path]:
    """The existing folders that a recipe reads images from; a set that comes with marrow is none, whatever lies here."""
    stages = recipe.get("stages", ())
    for stage in (*stages, *(s["probe"] for s in stages if "probe" in s)):
        for sources in (stage.get("data") or {}).values():
            for source in sources if isinstance(sources, list) else ():
                images = str(source.get("images", "")) if isinstance(source, Mapping) else ""
                if images not in EMBEDDED and Path(images).is_dir():
                    yield Path(images)


def _taken(lock: Path) -> int:
    """The open file that this process holds locked; the system frees it when the process ends, however that happens.

    A pid alone would not do: another process may have got it since, and a copied folder would have it too.
    """
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            pid = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise MarrowError(f"another run (pid {pid}) is working in {lock.parent}", where="--out",
                              hint="Wait for it, or choose another folder.") from None  # fmt: skip
        if lock.exists() and os.path.samestat(os.fstat(handle), os.stat(lock)):
            os.ftruncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)  # its owner ended, and took the file away, between the two lines above


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
