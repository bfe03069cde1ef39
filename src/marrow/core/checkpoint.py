"""One file that holds a training under way: tensors, numbers, strings, lists and dicts, and nothing else."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from types import NoneType
from typing import Any, Mapping

import torch
from torch import Tensor

from .errors import MarrowError
from .limits import FOREIGN, told
from .whole_file import replacing

# What a training writes, and goes on from.
ENTRIES: dict[str, Any] = {
    "facts": dict, "step": int, "stopped": bool, "method": dict, "optimizers": dict, "average": (dict, NoneType),
    "best": dict, "window": dict, "micro_batch": (int, NoneType), "rng": list, "scaler": dict, "unreadable": dict,
}  # fmt: skip
WITHOUT_TENSORS = ("facts", "window", "unreadable")
MOST_NESTING = 30


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Under another name first, then renamed: a killed process leaves the old file or the new one."""
    values = plain(state)
    with replacing(path) as file:
        try:
            torch.save(values, file)
        except RuntimeError as error:  # on a full disk torch complains of positions in its file
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read(path: Path) -> dict[str, Any]:
    """What `write` wrote. Every other file, whatever it is, ends in one sentence, and none of its code is run."""
    try:
        with zipfile.ZipFile(path) as parts:  # torch does not compare the checksums that it writes
            if broken := parts.testzip():
                raise zipfile.BadZipFile(f"wrong checksum of {broken}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, zipfile.BadZipFile, pickle.UnpicklingError, *FOREIGN) as error:
        raise MarrowError(f"the checkpoint is damaged ({told(error)}).", where=str(path),
                          hint="Delete it to begin this training again; finished stages stay.") from None  # fmt: skip
    written = isinstance(state, dict) and all(isinstance(state.get(k), kinds) for k, kinds in ENTRIES.items())
    if not written or not all(_is_plain(value, key not in WITHOUT_TENSORS) for key, value in state.items()):
        raise MarrowError("this is no checkpoint of a training.", where=str(path), hint="Delete it to start again.")
    return state


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


def _is_plain(value: Any, tensors: bool) -> bool:
    """Whether `plain` could have made it. A list may hold itself: pickle allows that without any class."""
    layer, seen = [value], set()
    for _ in range(MOST_NESTING):
        inner: list[Any] = []
        for item in layer:
            if isinstance(item, (dict, list)):
                if id(item) not in seen:
                    seen.add(id(item))
                    inner += [*item, *item.values()] if isinstance(item, dict) else item
            elif type(item) is int:
                if not -(2**63) <= item < 2**63:
                    return False
            elif not (isinstance(item, (bool, float, str, NoneType)) or (tensors and isinstance(item, Tensor))):
                return False
        layer = inner
    return not layer


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each fact that is not what it was, in words."""
    found = []
    for key in sorted(set(then) | set(now), key=str):
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
