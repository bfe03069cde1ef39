"""The table of cases: what runs and what is measured, by whether there are labels and what kind of teacher."""

from __future__ import annotations

import dataclasses
from typing import Literal

from ..core.errors import MarrowError
from ..core.source import Source
from . import class_map
from .given import Given, given
from .wishes import Wishes

NEITHER = "no labels and no teacher: give --teacher or class sub-folders"


@dataclasses.dataclass(frozen=True)
class Case:
    """kind: "labels", "answers" (no labels: the teacher's answers stand for them) or "features" (no classes at all).

    given: the teacher that is there already. fit: how one comes about, "scratch" (none was given), "head" (a backbone
    gets a head for the data's classes) or None. classes: names of what is told apart. class_map: see `class_map.read`.
    """

    kind: Literal["labels", "answers", "features"]
    given: Given | None
    fit: Literal["scratch", "head"] | None
    classes: list[str] | None
    class_map: tuple[int, ...] = ()

    @property
    def no_baseline(self) -> str | None:
        """Why the student cannot be trained without its teacher."""
        return None if self.kind == "labels" else "without labels there is nothing but the teacher to learn from"


def find(wishes: Wishes, known: Source) -> Case:
    """The row of the table; raises where there is none."""
    teacher = given(wishes.teacher, "--teacher") if wishes.teacher else None
    labelled = known.classes is not None
    if not labelled and teacher is None:
        raise MarrowError(NEITHER, where="--data")
    if wishes.class_map and not (labelled and teacher and teacher.kind == "task"):
        raise MarrowError("a class map leads from a teacher's classes to the data's; it needs labels and a teacher with "
                          "a head", where=class_map.OPTION)  # fmt: skip
    if wishes.compare and not labelled:
        raise MarrowError("the other model is fine-tuned on labels, and there are none", where="--compare")
    if labelled:
        return _with_labels(wishes, teacher, list(known.classes or ()))
    assert teacher is not None
    if teacher.kind == "backbone" and wishes.budgets.drop is not None:
        raise MarrowError("without labels and without a teacher that names classes there is no accuracy to lose",
                          where="--max-drop")  # fmt: skip
    if teacher.kind == "backbone":
        return Case("features", teacher, None, None)
    return Case("answers", teacher, None, teacher.labels)


def _with_labels(wishes: Wishes, teacher: Given | None, classes: list[str]) -> Case:
    if teacher is None:
        return Case("labels", None, "scratch", classes)
    if teacher.kind == "backbone":
        return Case("labels", teacher, "head", classes)
    if wishes.class_map:
        return Case("labels", teacher, None, classes, class_map.read(wishes.class_map, teacher.labels or [], classes))
    if teacher.labels != classes:
        raise MarrowError(f"its classes ({_few(teacher.labels or [])}) are not the data's ({_few(classes)})", where="--teacher",
                          hint="Give --class-map FILE with a line 'TEACHER\'S CLASS: YOUR CLASS' for each that you have.")  # fmt: skip
    return Case("labels", teacher, None, classes)


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
