"""`marrow predict`: what a model says about image files."""

from __future__ import annotations

from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterator, Sequence

import torch

from ..core.artifact import Artifact
from ..core.collate import collate
from ..core.contracts import Task, stem_of
from ..core.errors import MarrowError
from ..core.preprocess import plain
from ..core.source import Unreadable
from ..data.decode import undecoded
from ..data.folder import ImageFolder

TOP = 5


def predict(
    artifact: Artifact | Path | str, files: Sequence[Path | str], *, batch: int = 32, threads: int | None = None
) -> list[dict[str, Any]]:
    """One row a file, in the order given; a folder stands for all images in it.

    A row is {"file", "label", "probability", "top": the five most probable [{"label", "probability"}]}, or
    {"file", "error"} for a file that cannot be read. threads: default the runtime's own choice.
    """
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    if threads is not None and threads < 1:
        raise MarrowError(f"{threads} is not a number of threads; 1 or more is", where="threads")
    model = _model(artifact)
    names, prepare = artifact.meta["labels"], plain(model.input)
    rows: list[dict[str, Any]] = []
    images = _images(files)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)  # a Runner opens its file with as many
    try:
        while part := list(islice(images, batch)):
            read = [_read(open_image, prepare) for _, open_image in part]
            readable = [r for r in read if isinstance(r, dict)]
            answers = iter(_answers(model, collate(readable), names) if readable else ())
            rows += [{"file": name, **(next(answers) if isinstance(r, dict) else {"error": r})}
                     for (name, _), r in zip(part, read)]  # fmt: skip
    finally:
        torch.set_num_threads(before)
    return rows


def _model(artifact: Artifact) -> Any:
    if artifact.kind not in ("task", "runtime"):
        raise MarrowError(f"a {artifact.kind} artifact does not name classes; a task or a runtime artifact does",
                          where=str(artifact.path))  # fmt: skip
    model = artifact.load()
    task = stem_of(type(model)) if isinstance(model, Task) else model.task
    if task != "classify":
        raise MarrowError(f"predict names classes; this model does '{task}'", where=str(artifact.path))
    return model


def _images(files: Sequence[Path | str]) -> Iterator[tuple[str, Callable[[], dict]]]:
    """(name as the user knows it, a function that reads it) of every file, folders opened."""
    for file in files:
        if Path(file).is_dir():
            folder = ImageFolder(Path(file), "FILES", labelled=False)
            for i in range(len(folder)):
                yield str(Path(file) / folder.name(i)), partial(folder.undecoded, i)
        else:
            yield str(file), partial(_opened, Path(file))


def _opened(file: Path) -> dict:
    try:
        return {"image": undecoded(file.read_bytes(), file.name)}
    except OSError as error:
        raise Unreadable(file.name, error.strerror or str(error)) from None


def _read(open_image: Callable[[], dict], prepare: Callable[[dict], dict]) -> dict | str:
    """The prepared example, or why there is none."""
    try:
        return prepare(open_image())
    except Unreadable as error:
        return error.reason


def _answers(model: Any, batch: dict, names: list[str] | None) -> list[dict[str, Any]]:
    with torch.inference_mode():
        probability = model.decode(model(batch), batch)["probability"]
    values, indices = probability.topk(min(TOP, probability.shape[-1]))
    rows = [[{"label": names[i] if names else str(i), "probability": v} for i, v in zip(line, chances)]
            for line, chances in zip(indices.tolist(), values.tolist())]  # fmt: skip
    return [{**row[0], "top": row} for row in rows]
