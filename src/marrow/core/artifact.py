"""Artifacts: a folder with weights, tables, rows or an exported file, and `artifact.json`, which says what it is.

Written under a temporary name and renamed, so a killed process never leaves half of one. Loading allows only registered
names and plain arguments, compares every shape with the file's header before allocating, and never touches the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any, Callable, Sequence

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import limits, plain_json
from .artifact_check import FIELDS, check
from .contracts import Backbone, Report, Task
from .errors import MarrowError
from .spec import build, load_weights, meta, saved_weights
from .table import Table
from .versions import versions

LARGEST_ROWS = 64 * 2**20
LARGEST_HEADER = 16 * 2**20
TYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
         torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Artifact:
    """An opened artifact: `meta` is its artifact.json, checked; `load()` gives what it holds."""

    path: Path
    meta: dict[str, Any]

    @classmethod
    def open(cls, path: Path | str) -> "Artifact":
        """Read artifact.json and check every file it lists: present, of the stated length, of the stated hash."""
        path = Path(path)
        artifact = cls(path, _read_meta(path))
        for name, (size, digest) in artifact.meta["files"].items():
            file = path / name
            if not file.is_file():
                raise MarrowError(f"{name} is missing", where=str(path))
            if not file.resolve().is_relative_to(path.resolve()):
                raise MarrowError(f"{name} is a link to a file elsewhere", where=str(path),
                                  hint="Put the file itself into the folder.")  # fmt: skip
            if file.stat().st_size != size:
                raise MarrowError(f"{name} has {file.stat().st_size} bytes instead of {size}; it is cut off or altered",
                                  where=str(path))  # fmt: skip
            if _sha256(file) != digest:
                raise MarrowError(f"{name} was altered after it was written: its sha256 differs", where=str(path))
        return artifact

    @property
    def kind(self) -> str:
        return self.meta["kind"]

    @property
    def hash(self) -> str:
        """Names the content: equal for equal weights, spec, input and labels, whenever and wherever made."""
        content = {k: self.meta[k] for k in ("kind", "spec", "input", "labels", "files")}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def rows(self) -> list[dict]:
        """What was measured of it, or the rows of a report."""
        return self._report().rows if self.kind == "report" else self.meta["metrics"]

    def load(self) -> Any:
        """The module (kinds backbone, task), a Table (data), a Report (report) or a Runner (runtime)."""
        if self.kind == "data":
            return self._table()
        if self.kind == "report":
            return self._report()
        if self.kind == "runtime":
            from .runtime import Runner

            return Runner(self.path, self.meta)
        where = f"{self.path}: spec"
        empty = meta(self.meta["spec"], where)
        self._compare(saved_weights(empty))
        limits.room(empty, where)
        model = build(self.meta["spec"], where)
        load_weights(model, self._tensors("weights.safetensors"))
        labels = self.meta["labels"]
        if isinstance(model, Task):
            if labels and len(labels) != getattr(model, "classes", len(labels)):
                raise MarrowError(f"artifact.json names {len(labels)} classes, the spec has {model.classes}",
                                  where=str(self.path))  # fmt: skip
            model.labels = labels
        return model.eval()

    def _table(self) -> Table:
        tensors_in(self.path / "table.safetensors")
        try:
            return Table(self._tensors("table.safetensors"), self.meta["labels"])
        except MarrowError as error:
            raise MarrowError(f"table.safetensors: {error}", where=str(self.path)) from None

    def _report(self) -> Report:
        rows = plain_json.read(self.path / "rows.json", str(self.path), LARGEST_ROWS)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise MarrowError("rows.json is not a list of rows", where=str(self.path))
        if "tensors.safetensors" in self.meta["files"]:
            tensors_in(self.path / "tensors.safetensors")
        return Report(rows, self._tensors("tensors.safetensors"))

    def _tensors(self, name: str) -> dict[str, Tensor]:
        if name not in self.meta["files"]:
            return {}
        try:
            return load_file(self.path / name)
        except SafetensorError as error:
            raise MarrowError(f"{name} is not a safetensors file ({error})", where=str(self.path)) from None

    def _compare(self, expected: dict[str, Tensor]) -> None:
        """Names, shapes and types in the file's header against those of the model, before anything is allocated."""
        header, where = tensors_in(self.path / "weights.safetensors"), str(self.path)
        for problem, keys in (("lacks", set(expected) - set(header)), ("has unknown", set(header) - set(expected))):
            if keys:
                raise MarrowError(f"weights.safetensors {problem} '{min(keys)}' ({len(keys)} such keys)", where=where)
        for key, value in expected.items():
            shape, kind = header[key]
            if shape != tuple(value.shape):
                raise MarrowError(
                    f"weights.safetensors: '{key}' is {shape}, the spec says {tuple(value.shape)}", where=where
                )
            if kind != TYPES.get(value.dtype):
                raise MarrowError(f"weights.safetensors: '{key}' is {kind}, the spec says {TYPES.get(value.dtype)}",
                                  where=where)  # fmt: skip


def save(
    folder: Path | str,
    thing: nn.Module | Table | Report | dict,
    *,
    labels: list[str] | None = None,
    licences: Sequence[dict] = (),
    parents: Sequence[str] = (),
    recipe: dict | None = None,
    stage: str | None = None,
    key: str | None = None,
    seed: int | None = None,
    metrics: Sequence[dict] = (),
    fill: Callable[[Path], None] | None = None,
    finish: Callable[[Path, dict], Any] | None = None,
) -> Artifact:
    """Write an artifact into `folder`, replacing one that is there.

    thing: a backbone, a task, a Table, a Report, or the runtime facts of a file that `fill` writes (`model.onnx`); what else it
    writes beside a backbone or a task belongs to it.
    parents: hashes of the artifacts it came from. finish: adds files that may be edited later, such as the card.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        meta = _write(temporary, thing, fill)
        labels = labels if labels is not None else getattr(thing, "labels", None) or getattr(thing, "classes", None)
        meta |= {"labels": labels if isinstance(labels, list) else None, "licences": list(licences),
                 "parents": list(parents), "recipe": recipe, "stage": stage, "key": key, "seed": seed,
                 "metrics": list(metrics), "versions": versions()}  # fmt: skip
        meta["files"] = {f.name: [f.stat().st_size, _sha256(f)] for f in sorted(temporary.iterdir())}
        text = json.dumps({k: meta.get(k) for k in FIELDS}, indent=1, sort_keys=False, allow_nan=False)
        (temporary / "artifact.json").write_text(text + "\n", encoding="utf-8")
        if finish:
            finish(temporary, meta)
        _replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Artifact.open(folder)


def _write(folder: Path, thing: Any, fill: Callable[[Path], None] | None) -> dict[str, Any]:
    if isinstance(thing, (Backbone, Task)):
        _save_tensors(folder / "weights.safetensors", saved_weights(thing))
        if fill:
            fill(folder)
        kind = "task" if isinstance(thing, Task) else "backbone"
        return {"kind": kind, "spec": thing.spec, "input": thing.input.to_json()}
    if isinstance(thing, Table):
        _save_tensors(folder / "table.safetensors", thing.columns)
        return {"kind": "data", "spec": None, "input": None}
    if isinstance(thing, Report):
        write_rows(thing.rows, folder)
        if thing.tensors:
            _save_tensors(folder / "tensors.safetensors", thing.tensors)
        return {"kind": "report", "spec": None, "input": None}
    if isinstance(thing, dict) and fill:
        fill(folder)
        runtime = {k: v for k, v in thing.items() if k != "input"}
        return {"kind": "runtime", "spec": None, "input": thing["input"], "runtime": runtime}
    raise MarrowError(f"cannot save a {type(thing).__name__}; a backbone, task, table or report fits", where="save")


def write_rows(rows: Sequence[dict], folder: Path) -> None:
    text = json.dumps(rows, indent=1, allow_nan=False)
    (folder / "rows.json").write_text(text + "\n", encoding="utf-8")


def _save_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    # safetensors refuses tensors that share memory (tied weights): each key gets its own copy.
    try:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, file)
    except SafetensorError as error:  # the system's error, a full disk for one, is only in its sentence
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from None


def _replace(temporary: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    for file in temporary.iterdir():
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
    if folder.exists():
        os.rename(folder, old)
    os.rename(temporary, folder)
    shutil.rmtree(old, ignore_errors=True)


def _read_meta(path: Path) -> dict[str, Any]:
    file, where = path / "artifact.json", str(path)
    if not file.is_file():
        raise MarrowError("no artifact here: artifact.json is missing", where=where)
    return check(plain_json.read(file, where, plain_json.LARGEST_META), where)


def tensors_in(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name -> shape and type from a safetensors header. The library itself checks that offsets and length add up."""
    with open(file, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
    if length > min(LARGEST_HEADER, file.stat().st_size):
        raise MarrowError(
            f"{file.name} is not a safetensors file (a header of {length:,} bytes)", where=str(file.parent)
        )
    try:
        with safe_open(file, framework="pt") as handle:
            slices = {k: handle.get_slice(k) for k in handle.keys()}
            return {k: (tuple(s.get_shape()), s.get_dtype()) for k, s in slices.items()}
    except SafetensorError as error:
        raise MarrowError(f"{file.name} is not a safetensors file ({error})", where=str(file.parent)) from None


def _sha256(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
