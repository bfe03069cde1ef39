"""`marrow predict`: what a model says about image files, a class or a mask for each."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import torch

from ..core.artifact import Artifact
from ..core.collate import collate
from ..core.contracts import Task, stem_of
from ..core.errors import MarrowError
from ..core.preprocess import plain
from ..core.source import Unreadable
from ..data.decode import undecoded
from ..data.folder import ImageFolder
from . import mask_files
from .object_fields import ObjectFields

TOP = 5
TASKS = ("classify", "hybrid_classify", "nested_classify", "segment")


class Picture(NamedTuple):
    """name: as the user knows the file. inner: its path in the folder that was given, its own name without one."""

    name: str
    inner: str
    open: Callable[[], dict]


class Ready(NamedTuple):
    """A picture at the model's input size, its own size, and the file that its mask goes to."""

    example: dict
    size: tuple[int, int]
    mask: Path | None


def predict(
    artifact: Artifact | Path | str,
    files: Sequence[Path | str],
    *,
    out: Path | str | None = None,
    objects: int | str | None = None,
    masks: Path | str | None = None,
    batch: int = 32,
    threads: int | None = None,
) -> list[dict[str, Any]]:
    """One row a file, in the order given; a folder stands for all images in it.

    A row is {"file", "label", "probability", "top": the five most probable [{"label", "probability"}]}, or
    {"file", "error"} for a file that cannot be read. threads: default the runtime's own choice.
    A model that segments gives {"file", "mask", "shares": {class: share of the pixels}}: the mask, of the picture's size,
    is a PNG of class ids in the folder `out`, under the picture's path in its folder; without `out` none is written.
    A model that reads measures of an object needs `objects`, as its source had it: "otsu", or the class id of the object in
    the folder `masks`, in which each mask lies under its picture's path up to the ending.
    """
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    if threads is not None and threads < 1:
        raise MarrowError(f"{threads} is not a number of threads; 1 or more is", where="threads")
    model = _model(artifact)
    segments = "mask" in model.fields
    if out is not None and not segments:
        raise MarrowError("only a model that segments writes masks; this one names classes", where="--out")
    fields = ObjectFields.of("objects" in _inputs(model), objects, masks)
    names, prepare, answers = artifact.meta["labels"], plain(model.input), _masks if segments else _classes
    pictures = list(_pictures(files))
    targets = (
        [None] * len(pictures) if out is None else mask_files.targets([(p.name, p.inner) for p in pictures], Path(out))
    )
    rows: list[dict[str, Any]] = []
    waiting = iter(zip(pictures, targets))
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)  # a Runner opens its file with as many
    try:
        while part := list(islice(waiting, min(batch, model.at_once))):
            read = [_read(picture, mask, fields, prepare) for picture, mask in part]
            readable = [r for r in read if isinstance(r, Ready)]
            found = iter(answers(model, readable, names) if readable else ())
            rows += [{"file": picture.name, **(next(found) if isinstance(r, Ready) else {"error": r})}
                     for (picture, _), r in zip(part, read)]  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return rows


def _model(artifact: Artifact) -> Any:
    if artifact.kind not in ("task", "runtime"):
        raise MarrowError(f"a {artifact.kind} artifact does not name classes; a task or a runtime artifact does",
                          where=str(artifact.path))  # fmt: skip
    model = artifact.load()
    task = stem_of(type(model)) if isinstance(model, Task) else model.task
    if task not in TASKS:
        raise MarrowError(f"predict names classes; this model does '{task}'", where=str(artifact.path))
    return model


def _inputs(model: Any) -> Iterable[str]:
    return model.example() if isinstance(model, Task) else model.inputs


def _pictures(files: Sequence[Path | str]) -> Iterator[Picture]:
    """Of every file, folders opened."""
    for file in files:
        if Path(file).is_dir():
            folder = ImageFolder(Path(file), "FILES", labelled=False)
            for i in range(len(folder)):
                yield Picture(str(Path(file) / folder.name(i)), folder.relative(i), partial(folder.undecoded, i))
        else:
            yield Picture(str(file), Path(file).name, partial(_opened, Path(file)))


def _opened(file: Path) -> dict:
    try:
        return {"image": undecoded(file.read_bytes(), file.name)}
    except OSError as error:
        raise Unreadable(file.name, error.strerror or str(error)) from None


def _read(
    picture: Picture, mask: Path | None, fields: ObjectFields | None, prepare: Callable[[dict], dict]
) -> Ready | str:
    """The prepared example, or why there is none."""
    try:
        example = picture.open()
        example = fields.added(example, picture.inner) if fields else example
        return Ready(prepare(example), tuple(example["image"].shape[-2:]), mask)
    except Unreadable as error:
        return error.reason


def _decoded(model: Any, readable: Sequence[Ready]) -> dict:
    batch = collate([ready.example for ready in readable])
    with torch.inference_mode():
        return model.decode(model(batch), batch)


def _classes(model: Any, readable: Sequence[Ready], names: list[str] | None) -> Iterator[dict[str, Any]]:
    probability = _decoded(model, readable)["probability"]
    values, indices = probability.topk(min(TOP, probability.shape[-1]))
    for line, chances in zip(indices.tolist(), values.tolist()):
        row = [{"label": names[i] if names else str(i), "probability": v} for i, v in zip(line, chances)]
        yield {**row[0], "top": row}


def _masks(model: Any, readable: Sequence[Ready], names: list[str] | None) -> Iterator[dict[str, Any]]:
    decoded = _decoded(model, readable)
    names = names or [str(i) for i in range(decoded["probability"].shape[1])]
    for mask, ready in zip(decoded["mask"], readable):
        row: dict[str, Any] = {"shares": mask_files.shares(mask, names)}
        if ready.mask is not None:
            mask_files.write(mask, ready.size, ready.mask, len(names))
            row = {"mask": str(ready.mask), **row}
        yield row
