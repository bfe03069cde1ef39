"""What artifact.json may say: the type and range of every entry, before anything is opened or built."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Callable, Mapping

from .clip_input import ClipInput
from .contracts import Input
from .errors import MarrowError
from .limits import LARGEST, side

KINDS = {"backbone": "weights.safetensors", "task": "weights.safetensors", "data": "table.safetensors",
         "report": "rows.json", "runtime": "model.onnx"}  # fmt: skip
FIELDS = ("kind", "spec", "input", "labels", "licences", "files", "parents", "recipe", "stage", "key", "seed")
FIELDS += ("metrics", "versions", "runtime")
LONGEST_NAME = 1000
FILTERS = ("nearest", "nearest-exact", "bilinear", "bicubic", "box", "hamming", "lanczos")


def check(meta: Any, where: str) -> dict[str, Any]:
    """The mapping itself, when every entry is of its kind."""
    if not isinstance(meta, dict) or not isinstance(meta.get("kind"), str) or meta["kind"] not in KINDS:
        raise MarrowError(f"artifact.json names no known kind; known: {', '.join(KINDS)}", where=where)
    if missing := [k for k in FIELDS if k not in meta]:
        raise MarrowError(f"artifact.json lacks '{missing[0]}'", where=where)
    for key, (fits, words) in ENTRIES.items():
        if not fits(meta[key]):
            raise MarrowError(f"artifact.json: '{key}' is not {words}", where=where)
    _check_files(meta["files"], meta["kind"], where)
    _check_input(meta["input"], meta["kind"], where)
    for key, kinds in (("spec", ("backbone", "task")), ("runtime", ("runtime",))):
        if (meta["kind"] in kinds) != (meta[key] is not None):
            raise MarrowError(f"artifact.json has {'no' if meta['kind'] in kinds else 'a'} {key}, and its kind is "
                              f"{meta['kind']}", where=where)  # fmt: skip
    return meta


def _check_files(files: Mapping[str, Any], kind: str, where: str) -> None:
    if KINDS[kind] not in files:
        raise MarrowError(f"artifact.json lists no {KINDS[kind]}", where=where)
    for name, entry in files.items():
        if Path(name).name != name or re.search(r"[/\\:\x00-\x1f]", name) or name in ("", ".", ".."):
            raise MarrowError(f"artifact.json lists '{name}', which is not a plain file name", where=where)
        if not (isinstance(entry, list) and len(entry) == 2 and _whole(entry[0]) and _digest(entry[1])):
            raise MarrowError(f"artifact.json: the entry of '{name}' is not [bytes, sha256]", where=where)


def _check_input(given: Any, kind: str, where: str) -> None:
    if kind in ("data", "report"):
        if given is not None:
            raise MarrowError(f"artifact.json has an input, and its kind is {kind}", where=where)
        return
    if not isinstance(given, dict):
        raise MarrowError("artifact.json does not say what the input is", where=where)
    known = {f.name for f in dataclasses.fields(ClipInput if given.get("modality") == "video" else Input)}
    if unknown := sorted(set(given) - known):
        raise MarrowError(f"artifact.json: input has unknown key '{unknown[0]}'", where=where)
    if missing := sorted(known - set(given)):
        raise MarrowError(f"artifact.json: input lacks '{missing[0]}'", where=where)
    for key, (fits, words) in INPUT.items():
        if key in known and not fits(given[key]):
            raise MarrowError(f"artifact.json: input.{key} is not {words}", where=where)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_NAME


def _digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _list(of: Callable[[Any], bool], least: int = 0, most: int = LARGEST) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, list) and least <= len(v) <= most and all(map(of, v))


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda v: v is None or fits(v)


def _names(value: Any) -> bool:
    """A mapping of texts."""
    return isinstance(value, dict) and all(v is None or _name(v) for v in value.values())


def _row(value: Any) -> bool:
    """A row of a metric, as it is written into artifacts and cards."""
    return (isinstance(value, dict) and _name(value.get("metric")) and _or_none(_number)(value.get("value"))
            and _or_none(_whole)(value.get("n")) and _or_none(_list(_number, 2, 2))(value.get("ci95"))
            and _or_none(_name)(value.get("split")))  # fmt: skip


# key -> (does an entry fit, what fits in words)
ENTRIES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "files": (lambda v: isinstance(v, dict) and len(v) <= 1000, "a mapping of at most 1,000 files"),
    "spec": (_or_none(lambda v: isinstance(v, dict)), "a model spec"),
    "labels": (_or_none(_list(_name)), "a list of class names"),
    "licences": (_list(_names, most=1000), "a list of mappings of texts"),
    "parents": (_list(_digest, most=1000), "a list of hashes"),
    "recipe": (_or_none(lambda v: isinstance(v, dict)), "a stage of a recipe"),
    "stage": (_or_none(_name), "the name of a stage"),
    "key": (_or_none(_name), "a hash"),
    "seed": (_or_none(_whole), "a whole number"),
    "metrics": (_list(_row, most=1000), "a list of measurements {metric, value, n}"),
    "versions": (_names, "a mapping of texts"),
    "runtime": (_or_none(lambda v: isinstance(v, dict)), "a mapping"),
}
INPUT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "modality": (_name, "a word"),
    "size": (_list(side, 2, 2), "[height, width] in pixels"),
    "channels": (lambda v: _whole(v) and 1 <= v <= 4096, "a number of channels"),
    "range": (_list(_number, 2, 2), "[low, high]"),
    "mean": (_list(_number, 1, 4096), "a list of numbers"),
    "std": (_list(lambda v: _number(v) and v > 0, 1, 4096), "a list of numbers above 0"),
    "resize": (lambda v: v in ("crop", "squash"), "crop or squash"),
    "crop_pct": (lambda v: _number(v) and 0.1 <= v <= 1, "a number from 0.1 to 1"),
    "frames": (lambda v: _whole(v) and 1 <= v <= 4096, "a number of frames"),
    "stride": (lambda v: _whole(v) and 1 <= v <= 4096, "a distance in frames"),
    "interpolation": (lambda v: v in FILTERS, "the name of a filter"),
}
