"""The static pass over a stage's data: keys and values of sources, and whether their files exist."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

from .catalogue import class_node
from .errors import near
from .signature import arguments_of, check_values
from .stage_keys import is_number, is_whole

SCENES = "digit_scenes"
EMBEDDED = ("digits", "moving_digits", "changing_digits", SCENES)
SPLITS = ("train", "val", "test")
LONGEST_PATTERN = 1000


def _names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(name, str) for name in value)


def _broken(pattern: str) -> str:
    """What keeps it from being a regular expression; empty where nothing does."""
    try:
        re.compile(pattern)
    except RecursionError:
        return "it is nested too deeply"
    except (re.error, OverflowError) as error:
        return str(error)
    return ""


# key -> (does a value fit, what fits in words)
SOURCE: dict[str, tuple[Callable[[Any], bool], str]] = {
    "images": (lambda v: isinstance(v, str) and bool(v), "a path or a name"),
    "masks": (lambda v: isinstance(v, str) and bool(v), "a folder"),
    "videos": (lambda v: v in ("frames", "files"), "frames or files"),
    "void": (lambda v: is_whole(v) and v >= 0, "a class id"),
    "mask_classes": (lambda v: _names(v) and len(set(v)) == len(v), "a list of distinct class names"),
    "objects": (lambda v: v == "otsu" or (is_whole(v) and v >= 0), "otsu or the class id of the objects in the masks"),
    "split": (lambda v: v in SPLITS, f"one of {', '.join(SPLITS)}"),
    "root": (lambda v: isinstance(v, str), "a folder"),
    "labels": (lambda v: isinstance(v, bool), "true or false"),
    "hash": (lambda v: isinstance(v, list) and len(v) == 2 and all(map(is_number, v)) and 0 <= v[0] < v[1] <= 1,
             "[low, high) with 0 <= low < high <= 1"),
    "per_class": (lambda v: is_whole(v) and v >= 1, "a whole number of at least 1"),
    "fraction": (lambda v: is_number(v) and 0 < v <= 1, "a number above 0 and up to 1"),
    "salt": (lambda v: is_whole(v) or isinstance(v, str), "a number or a word"),
    "indices": (lambda v: isinstance(v, str) or (isinstance(v, list) and all(is_whole(i) and i >= 0 for i in v)),
                "a list of whole numbers or the path of a data artifact"),
    "group": (lambda v: isinstance(v, str) and len(v) <= LONGEST_PATTERN,
              f"a regular expression of at most {LONGEST_PATTERN} characters"),
    "without": (lambda v: isinstance(v, list) and bool(v), "a list of sources"),
    "classes": (lambda v: _names(v) and len(set(v)) == len(v), "a list of distinct class names"),
    "only": (lambda v: _names(v), "a list of class names"),
    "domain": (lambda v: isinstance(v, str) and bool(v), "a name"),
    "turned": (lambda v: is_whole(v) and 1 <= v <= 3, "1, 2 or 3 quarters of a turn"),
    "scenes": (lambda v: isinstance(v, Mapping), "a mapping such as {size: [96, 96], frames: 8}"),
    "backgrounds": (lambda v: isinstance(v, Mapping), "a source"),
    "blend": (lambda v: isinstance(v, Mapping) or v == "black", "black or a source"),
}  # fmt: skip


def check_data(data: Any, streams: tuple[str, ...] | None, where: str, base: Path) -> Iterator[str]:
    """Problems of a stage's `data`; `streams` None: the class is unknown, any stream may be meant."""
    if not isinstance(data, Mapping):
        yield f"{where}: a mapping of streams is needed, got {data!r}"
        return
    known = {*(streams or ()), "val", "batch", "workers"}
    for key, value in data.items():
        if key == "workers":
            if not (is_whole(value) and value >= 0):
                yield f"{where}.workers: a whole number of at least 0 is needed, got {value!r}"
        elif key == "batch":
            yield from _check_batch(value, streams, f"{where}.batch")
        elif streams is not None and key not in known:
            yield f"{where}.{key}: unknown stream or key '{key}'{near(key, known)}"
        else:
            yield from _check_stream(value, f"{where}.{key}", base)
    for stream in streams or ():
        if stream not in data:
            yield f"{where}: the stream '{stream}' is missing"


def _check_batch(value: Any, streams: tuple[str, ...] | None, where: str) -> Iterator[str]:
    for name, size in value.items() if isinstance(value, Mapping) else [("", value)]:
        place = f"{where}.{name}" if name else where
        if name and streams is not None and name not in streams:
            yield f"{place}: unknown stream '{name}'{near(name, streams)}"
        if not (is_whole(size) and size >= 1):
            yield f"{place}: a whole number of at least 1 is needed, got {size!r}"
    if isinstance(value, Mapping) and (missing := [s for s in streams or () if s not in value]):
        yield f"{where}: the stream '{missing[0]}' has no batch size"


def _check_stream(sources: Any, where: str, base: Path) -> Iterator[str]:
    if not isinstance(sources, list) or not sources:
        yield f"{where}: a list of sources such as [{{images: digits}}] is needed, got {sources!r}"
        return
    for i, source in enumerate(sources):
        yield from check_source(source, f"{where}[{i}]", base)


def check_source(source: Any, where: str, base: Path = Path()) -> Iterator[str]:
    """Problems of one source mapping."""
    if not isinstance(source, Mapping):
        yield f"{where}: a mapping such as {{images: digits}} is needed, got {source!r}"
        return
    for key, value in source.items():
        if key not in SOURCE:
            yield f"{where}.{key}: unknown key '{key}'{near(key, SOURCE)}"
        elif not SOURCE[key][0](value):
            yield f"{where}.{key}: {SOURCE[key][1]} is needed, got {value!r}"
        elif key == "group" and (reason := _broken(value)):
            yield f"{where}.group: {value!r} is no regular expression: {reason}"
    if "per_class" in source and "fraction" in source:
        yield f"{where}: per_class and fraction exclude each other"
    images = source.get("images")
    if "images" not in source:
        yield f"{where}: 'images' is missing: a folder, a file or a name such as digits"
    elif isinstance(images, str) and images and not _exists(images, base):
        yield f"{where}.images: no file or folder '{images}'{_near_path(images, base)}"
    if isinstance(indices := source.get("indices"), str) and not (base / indices / "artifact.json").is_file():
        yield f"{where}.indices: no artifact at '{indices}'{_near_path(indices, base)}"
    if isinstance(others := source.get("without"), list):
        for i, other in enumerate(others):
            yield from check_source(other, f"{where}.without[{i}]", base)
    if isinstance(other := source.get("blend"), Mapping):
        yield from check_source(other, f"{where}.blend", base)
    if isinstance(scenes := source.get("scenes"), Mapping) and (node := class_node("data", "scenes", "Source")):
        known = {k: a for k, a in arguments_of(node) if k not in ("split", "backgrounds")}
        yield from check_values(scenes, known, "digit_scenes", f"{where}.scenes")
    if isinstance(behind := source.get("backgrounds"), Mapping):
        yield from check_source(behind, f"{where}.backgrounds", base)
    for key in ("scenes", "backgrounds"):
        if key in source and images != SCENES:
            yield f"{where}.{key}: '{key}' goes with {SCENES} only"
    if isinstance(masks := source.get("masks"), str) and masks and not _exists(masks, base):
        yield f"{where}.masks: no folder '{masks}'{_near_path(masks, base)}"
    if "root" in source and not str(images).startswith("torchvision:"):
        yield f"{where}.root: 'root' goes with torchvision:NAME only"
    elif isinstance(root := source.get("root"), str) and not (base / root).is_dir():
        yield f"{where}.root: no folder '{root}'{_near_path(root, base)}"


def _exists(images: str, base: Path) -> bool:
    if images in EMBEDDED or images.startswith("torchvision:"):
        return True
    path, shelf = Path(images).expanduser(), os.environ.get("MARROW_DATA")
    return (base / path).exists() or bool(shelf and len(path.parts) == 1 and (Path(shelf) / path).exists())


def _near_path(path: str, base: Path) -> str:
    """What lies beside it and is spelt like it."""
    wanted = base / path
    visible = (p.name for p in wanted.parent.iterdir() if not p.name.startswith("."))
    beside = list(visible) if wanted.parent.is_dir() else []
    suggestion = near(wanted.name, [*beside, *EMBEDDED])
    return suggestion if "did you mean" in suggestion else ""
