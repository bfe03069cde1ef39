"""Whether the labels of a stage's data are those that its models and its verb count by."""

from __future__ import annotations

from typing import Any, Iterator, Mapping, NamedTuple, Sequence

from .core.contracts import Method, Task
from .core.errors import MarrowError
from .core.loader import Data
from .core.runtime import Runner
from .core.source import Source
from .data.check import check_labelled

HINT = "The key 'classes' of a source names what its labels count; with 'labels: false' they are not read."


def check_learned(method: Method, models: Mapping[str, Any], data: Data, where: str) -> list[str]:
    """Raise where a training would take labels for those of other classes; returns the streams whose labels it ignores."""
    labelled = _labelled(data)
    val = {k: labelled.pop(k) for k in ("val",) if k in labelled}
    if method.reads_labels:
        for name, source in labelled.items():
            check_labelled(source, f"{where}.data.{name}")
        _same_as_models(models, labelled, where)
        open_to_others = any(m.open_classes for m in _classifiers(models))
        _same_as_each_other(labelled if open_to_others else labelled | val, where)
    _same_as_models(models, val, where, measured=True)
    return [] if method.reads_labels else list(labelled)


def check_measured(models: Mapping[str, Any], data: Data, where: str, answers: bool = True) -> None:
    """The same for a look at models. answers: what tasks say is held against the labels, not only the features."""
    labelled = _labelled(data)
    if answers:
        _same_as_models(models, labelled, where, measured=True)
    _same_as_each_other(labelled, where)


def sources(data: Data) -> Iterator[tuple[str, Source]]:
    yield from data.streams.items()
    if data.val is not None:
        yield "val", data.val


def different(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """Where two lists of class names first differ, in words; empty where they do not."""
    for i, (a, b) in enumerate(zip(theirs, ours)):
        if a != b:
            return f"class {i} is '{a}' there and '{b}' here"
    if len(theirs) == len(ours):
        return ""
    longer, word = (theirs, "there") if len(theirs) > len(ours) else (ours, "here")
    return f"'{longer[min(len(theirs), len(ours))]}' is only {word}"


def _labelled(data: Data) -> dict[str, Source]:
    return {name: s for name, s in sources(data) if s.classes is not None and len(s) and s.label(0) is not None}


class _Classifier(NamedTuple):
    role: str
    classes: int
    labels: list[str] | None  # their names, when known
    open_classes: bool


def _classifiers(models: Mapping[str, Any]) -> Iterator[_Classifier]:
    """What tells classes of pictures apart, also inside of a method that is a role."""
    for role, given in models.items():
        for model in given.children() if isinstance(given, Method) else [given]:
            if isinstance(model, Runner) and model.labels and "mask" not in model.fields:
                yield _Classifier(role, len(model.labels), model.labels, model.open_classes)
            elif isinstance(model, Task) and "mask" not in model.fields and getattr(model, "classes", None):
                yield _Classifier(role, model.classes, model.labels, model.open_classes)


def _same_as_models(
    models: Mapping[str, Any], labelled: Mapping[str, Source], where: str, measured: bool = False
) -> None:
    """Some model has as many classes as the data, and those that know the names of so many have the data's.

    measured: what is open to other classes than its own may be asked about any.
    """
    asked = [m for m in _classifiers(models) if not (measured and m.open_classes)]
    for name, source in labelled.items() if asked else ():
        classes, place = source.classes or [], f"{where}.data.{name}"
        if all(m.classes != len(classes) for m in asked):
            raise MarrowError(
                f"{asked[0].role} has {asked[0].classes} classes, the data has {len(classes)}", where=place
            )
        for model in asked:
            if model.labels and model.classes == len(classes) and (found := different(model.labels, classes)):
                raise MarrowError(f"the classes are not those that {model.role} knows: {found}", where=place, hint=HINT)


def _same_as_each_other(labelled: Mapping[str, Source], where: str) -> None:
    """Streams count the same classes; of several kinds, as `common_train` and `salient_train`, those of one kind do."""
    first: dict[str, tuple[str, Source]] = {}
    for name, source in labelled.items():
        kind = name.removesuffix("_train").removesuffix("_test") if name.endswith(("_train", "_test")) else ""
        other, agreed = first.setdefault(kind, (name, source))
        if found := different(agreed.classes or [], source.classes or []):
            raise MarrowError(
                f"the classes are not those of '{other}': {found}", where=f"{where}.data.{name}", hint=HINT
            )
