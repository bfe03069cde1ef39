"""A run's folder: owned by one process, holding one recipe."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Iterator, Mapping

from .core.errors import MarrowError
from .core.recipe import Recipe, load


class RunFolder:
    """Opens `path` for a run of `recipe`: locks it and sees that it holds the same recipe, or none yet.

    Raises MarrowError when a live process owns it, when it holds another recipe (unless `allow_changed`), when an
    unfinished stage waits there and `resume` was not given, or when it lies inside the data. Of several ranks only
    the first is the `owner`; the others use the folder without asking.
    """

    def __init__(
        self, path: Path, recipe: Recipe, *, resume: bool = False, allow_changed: bool = False, owner: bool = True
    ):
        self.path, self._recipe, self._owner = Path(path), recipe, owner
        self.logs, self.checkpoints, self._lock = self.path / "logs", self.path / "checkpoints", self.path / ".lock"
        if owner:
            self._check(resume, allow_changed)

    def _check(self, resume: bool, allow_changed: bool) -> None:
        for data in data_folders(self._recipe.to_dict()):
            if self.path.resolve().is_relative_to(data.resolve()):
                raise MarrowError(f"{self.path} lies inside the data ({data})", where="--out",
                                  hint="Nothing is written into a data folder; choose another.")  # fmt: skip
        file = self.path / "recipe.yaml"
        changes = list(differences(load(file), self._recipe.to_dict())) if file.is_file() else []
        if changes and not allow_changed:
            raise MarrowError("\n  ".join([f"{self.path} holds another run", *changes]), where="--out",
                              hint="Choose another folder, or give --allow-changed to redo what changed.")  # fmt: skip
        if (waiting := sorted(self.checkpoints.glob("*.pt"))) and not resume:
            raise MarrowError(f"{self.path} holds an unfinished run (stage {waiting[0].stem})", where="--out",
                              hint="Add --resume to go on, or choose another folder.")  # fmt: skip

    def __enter__(self) -> "RunFolder":
        if self._owner:
            self.path.mkdir(parents=True, exist_ok=True)
            _take(self._lock)
            self.logs.mkdir(exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
            (self.path / "recipe.yaml").write_text(self._recipe.to_yaml(), encoding="utf-8")
        return self

    def __exit__(self, *exc: Any) -> None:
        if self._owner:
            if not any(self.checkpoints.iterdir()):
                self.checkpoints.rmdir()
            self._lock.unlink(missing_ok=True)

    def clear(self, stage: str) -> None:
        """Forget the checkpoints of a stage whose artifact is written."""
        if self._owner:
            for file in (self.checkpoints / f"{stage}.pt", *self.checkpoints.glob(f"{stage}-[0-9].pt")):
                file.unlink(missing_ok=True)


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
    """The existing folders that a recipe reads images from."""
    for stage in recipe.get("stages", ()):
        for sources in (stage.get("data") or {}).values():
            for source in sources if isinstance(sources, list) else ():
                if isinstance(source, Mapping) and Path(str(source.get("images", ""))).is_dir():
                    yield Path(source["images"])


def _take(lock: Path) -> None:
    for _ in range(2):
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            text = lock.read_text(encoding="utf-8").strip()
            if text.isdigit() and int(text) != os.getpid() and _alive(int(text)):
                raise MarrowError(f"another run (pid {text}) is working in {lock.parent}", where="--out",
                                  hint="Wait for it, or choose another folder.") from None  # fmt: skip
            lock.unlink(missing_ok=True)
        else:
            os.write(handle, str(os.getpid()).encode())
            os.close(handle)
            return
    raise MarrowError(f"{lock} cannot be taken", where="--out")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _short(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
