"""One file that holds a training under way: tensors, numbers, strings, lists and dicts, and nothing else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any, Mapping

import torch
from torch import Tensor

from .errors import MarrowError


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Under another name first, then renamed: a killed process leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save(plain(state), file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)


def read(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise MarrowError(f"the checkpoint is damaged ({str(error).splitlines()[0]}).", where=path.name,
                          hint="Delete it to start again.") from None  # fmt: skip


def numbered(path: Path | None, number: int) -> Path | None:
    """The file of an engine's training: the path itself for the first, then NAME-1, NAME-2, ..."""
    return path if path is None or number == 0 else path.with_stem(f"{path.stem}-{number}")


def plain(value: Any) -> Any:
    """Tuples as lists, mappings as dicts; anything that would need pickle to know a class is refused."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    raise MarrowError(f"{type(value).__name__} cannot be kept in a checkpoint", where="checkpoint")


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each fact that is not what it was, in words."""
    found = []
    for key in sorted(set(then) | set(now)):
        old, new = then.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {old}, is {new}")
    return found


def refuse_changes(then: Mapping[str, Any], now: Mapping[str, Any], where: str) -> None:
    if changed := differences(then, now):
        raise MarrowError(f"the run that is to be resumed was another: {'; '.join(changed)}.", where=where,
                          hint="Go on all the same with --allow-changed.")  # fmt: skip
