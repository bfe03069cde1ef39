"""The student's backbone is trained on all images before the chain, without labels, by a method of `teach`."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Mapping, Sequence

from ..core.catalogue import stems
from ..core.errors import MarrowError
from ..core.fit_check import check_fit
from ..core.models import resolve
from ..core.recipe import Recipe
from ..core.signature import signature
from ..nn.map_channels import map_shape
from .chain import RATES, Spec, Stage, Training
from .lengths import Choose

NAME = "pretrained"
OPTION = "--pretrain"
REMEMBERED = 5000  # images with labels that the probe votes by
PLACES = 4  # a side, of the map whose places are compared; the last map of small pictures has fewer


def methods() -> dict[str, str]:
    """Methods that train one backbone on one stream of images, by themselves or under the job's teacher -> its role."""
    found = {}
    for stem in stems("teach"):
        known = signature("teach", stem)
        if known is None or known.owns_loop or known.streams != ("train",):
            continue
        roles = [role for role in known.roles if role != "teacher"]
        cuts = {"crop", "flip"} <= known.values.keys()  # so that it sees what the other stages see
        if cuts and len(roles) == 1 and all(a.kinds == {"Backbone"} for a in known.roles.values()):
            found[stem] = roles[0]
    return found


def stages(
    method: str | None, training: Training, pool: Sequence[Mapping[str, Any]], count: int, student: Spec, teacher: Spec,
    before: Sequence[Stage], steps: int, choose: Choose,
) -> list[Stage]:  # fmt: skip
    """The stage that the student starts from, none without a method; raises where the method does not fit the student.

    training: on the images that may have labels, `count` of them. pool: all images. before: the stages that make the
    teacher, a backbone here.
    """
    if method is None:
        return []
    watched = {"probe": _probe(training.train[0], training.val, count)} if training.val else {}
    training = dataclasses.replace(training.on(*pool), val=None)  # what is measured there needs a head
    made = _stage(method, training, student, teacher, steps)
    if problem := _problem(before, made):
        fitting = [m for m in methods() if m != method
                   and not _problem(before, _stage(m, training, student, teacher, steps))]  # fmt: skip
        hint = f"This student goes with {', '.join(fitting)}." if fitting else "No method goes with this student."
        raise MarrowError(problem, where=OPTION, hint=hint)
    part = f", up to map {made['args']['stage']}" if made["args"].get("stage", -1) != -1 else ""
    choose(NAME, method + part, "the student's backbone first, on all images, whose labels are ignored, for as many steps as "
           "the student; the baseline starts without it")  # fmt: skip
    return [{**made, **watched}]


def _probe(train: Mapping[str, Any], val: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The curve of a pre-training: how well the neighbours of a validation image tell its class."""
    few = {"fraction": REMEMBERED / count} if count > REMEMBERED else {}
    streams = {"train": [{**train, **few}], "test": [dict(val)]}
    return {"examine": "knn", "every_percent": 20, "args": {"k": min(20, count)}, "data": streams}


def _stage(method: str, training: Training, student: Spec, teacher: Spec, steps: int) -> Stage:
    known = signature("teach", method)
    assert known is not None
    roles = {methods()[method]: dict(student), **({"teacher": dict(teacher)} if "teacher" in known.roles else {})}
    args = _of_places(student) if "stage" in known.values else {}
    return training.stage(method, NAME, roles, steps, RATES["pretrain"], **args)


def _of_places(student: Spec) -> dict[str, Any]:
    """The deepest map with enough places, and a projection twice as wide as it, as published for a ResNet-50."""
    backbone = resolve(student, {}, "--student", meta=True)
    shapes = (
        {i: map_shape(backbone, i) for i in range(-1, -backbone.stages - 1, -1)} if "maps" in backbone.gives else {}
    )
    for i, (channels, *sides) in shapes.items():
        if min(sides) >= PLACES:
            return {"stage": i, "hidden": 2 * channels}
    return {"stage": -1}


def _problem(before: Sequence[Stage], made: Stage) -> str:
    """What a check of the stage says first, without its place in a recipe that the user did not write."""
    problems, _ = check_fit(Recipe.from_dict({"seed": 0, "stages": [*before, made]}))
    return re.sub(r"^(stages\[\d+\][\w.]*: )+", "", problems[0]) if problems else ""


def without_head(teacher: Spec) -> dict[str, Any]:
    """The backbone in a task's spec."""
    return dict(teacher["backbone"]) if "task" in teacher else {**teacher, "part": "backbone"}
