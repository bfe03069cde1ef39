"""What `marrow make` decides before it runs: splits, sizes, networks, lengths; each choice with its reason."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from pathlib import Path
from typing import Any

from ..core.artifact import Artifact
from ..core.errors import MarrowError, near
from ..core.source import Source, Unreadable
from ..data import open_source
from ..data.check import check_labelled
from ..data.open import splits_of

# Plain convolutions: of the nets tried at 32 px the ones whose int8 files are faster than fp32 and as accurate.
TEACHER = {"backbone": "resnet18"}
STUDENT = {"backbone": "resnet10t", "channels": [48, 96, 192, 384], "stem_width": 24}
LOOKED_AT = 64  # images opened to find out how large they are
LABELS_EACH = 5  # of the digits, for the student's baseline
RATIO = 0.3  # of the student's channels that pruning takes out
SKIPPABLE = ("prune",)


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe, and what the recipe does not say. test: the source on which every row is measured."""

    recipe: dict[str, Any]
    choices: list[dict[str, Any]]
    test: dict[str, Any]
    data: dict[str, Any]
    name: str


@dataclasses.dataclass(frozen=True)
class Wishes:
    """What the user said; None leaves it to marrow."""

    data: str | None = None
    val: str | None = None
    test: str | None = None
    unlabelled: str | None = None
    teacher: str | None = None
    student: str | None = None
    img_size: int | None = None
    batch: int | None = None
    epochs: float | None = None
    seed: int = 0
    skip: tuple[str, ...] = ()


def plan(wishes: Wishes) -> Plan:
    """Opens the data, looks at it, and writes the whole chain down as a recipe."""
    if unknown := [s for s in wishes.skip if s not in SKIPPABLE]:
        raise MarrowError(f"'{unknown[0]}' cannot be left out{near(unknown[0], SKIPPABLE)}", where="--skip")
    images = wishes.data or "digits"
    embedded = images == "digits"
    train, val, test = split(images, wishes.val, wishes.test)
    known = open_source(train, "--data")
    if known.classes is None:
        raise MarrowError("no labels and no teacher: give --teacher or class sub-folders", where="--data")
    check_labelled(known, "--data")
    choices: list[dict[str, Any]] = []

    def chosen(what: str, value: Any, reason: str) -> Any:
        choices.append({"what": what, "value": value, "reason": reason})
        return value

    size = _size(wishes, known, embedded, chosen)
    labelled = dict(train)
    if embedded:
        labelled |= {"per_class": LABELS_EACH}
        chosen("labels", f"{LABELS_EACH} a class", "the teacher knows all training labels; the student's baseline gets "
               "these few, as a user with few labels would, and the student none at all")  # fmt: skip
    pool = [{**train, "labels": False}]
    if wishes.unlabelled:
        pool.append({"images": wishes.unlabelled, "labels": False})
    count, classes = len(known), len(known.classes)
    batch = wishes.batch or chosen("batch", usual_batch(count), "64, less for fewer than 640 images")
    steps = _steps(wishes, count, batch, embedded, chosen)
    view: dict[str, Any] = {"crop": [0.7, 1.0], "flip": False} if embedded else {"crop": [0.35, 1.0], "flip": True}
    chosen("views", f"cuts of {view['crop'][0]:.0%} or more" + (", mirrored" if view["flip"] else ""),
           "a mirrored digit is no digit" if embedded else "photos keep their meaning when mirrored")  # fmt: skip
    teacher, stages = _teacher(wishes, known, size, chosen)
    student = {"backbone": wishes.student} if wishes.student else dict(STUDENT)
    if not wishes.student:
        chosen("student", "resnet10t, channels 48 to 384", "plain convolutions: small, and faster in int8 than in fp32")
    small = {"task": "classify", "backbone": {**student, "img_size": size}, "classes": classes}
    if teacher is None:
        big = {"task": "classify", "backbone": {**TEACHER, "img_size": size}, "classes": classes}
        teacher = {"stage": "teacher"}
        stages.append(_train("supervised", "teacher", {"task": big}, [train], val, batch, steps["teacher"], 2e-3, view))
    stages += [
        _train("supervised", "baseline", {"task": small}, [labelled], val, batch, steps["student"], 3e-3, view),
        _train(
            "ssld", "student", {"student": small, "teacher": teacher}, pool, val, batch, steps["student"], 3e-3, view
        ),
    ]
    last = {"stage": "student"}
    if "prune" not in wishes.skip:
        chosen("pruned", f"{RATIO:.0%} of the channels", "then trained on with the teacher, "
               f"{steps['recovery']} steps at a third of the rate")  # fmt: skip
        roles = {"student": {"stage": "cut"}, "teacher": teacher}
        stages += [
            {"shrink": "prune", "name": "cut", "model": last, "args": {"ratio": RATIO}},
            _train("ssld", "pruned", roles, pool, val, batch, steps["recovery"], 1e-3, view),
        ]
        last = {"stage": "pruned"}
    stages += [
        {"ship": "onnx", "name": "fp32", "model": last, "data": {"parity": [val]}},
        {"ship": "int8", "name": "int8", "model": last,
         "data": {"calibration": [{**train, "labels": False}], "parity": [val]}},
    ]  # fmt: skip
    recipe = {"seed": wishes.seed, "stages": stages}
    facts = {"images": Path(images).name, "classes": classes, "train": count, "labels of the baseline": len(open_source(labelled)),
             "val": len(open_source(val)), "test": len(open_source(test)), "size": size}  # fmt: skip
    if wishes.unlabelled:
        facts["unlabelled"] = len(open_source(pool[1], "--unlabelled"))
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:8]
    return Plan(recipe, choices, test, facts, f"{Path(images).name}-{digest}")


def usual_batch(count: int) -> int:
    """The largest power of two up to a tenth of the images, within 8 and 64."""
    return min(64, max(8, 2 ** ((count // 10).bit_length() - 1 if count >= 10 else 0)))


def split(images: str, val: str | None, test: str | None) -> tuple[dict, dict, dict]:
    """Train, validation and test as sources: those the data brings, else ranges of the content hash."""
    brought = splits_of(images, "--data")
    given = {"images": images}
    if not brought:
        parts = {s: {**given, "split": s} for s in ("train", "val", "test")}
    elif "train" not in brought:
        raise MarrowError(f"{images} has {', '.join(brought)} but no train", where="--data")
    else:
        low, high = (0.0 if "val" in brought or val else 0.1), (1.0 if "test" in brought or test else 0.9)
        whole = {**given, "split": "train"}
        parts = {
            "train": whole if (low, high) == (0.0, 1.0) else {**whole, "hash": [low, high]},
            "val": {**given, "split": "val"} if "val" in brought else {**whole, "hash": [0.0, 0.1]},
            "test": {**given, "split": "test"} if "test" in brought else {**whole, "hash": [0.9, 1.0]},
        }
    for name, other in (("val", val), ("test", test)):
        if other:
            own = splits_of(other, f"--{name}")
            parts[name] = {"images": other, "split": name} if name in own else {"images": other}
    return parts["train"], parts["val"], parts["test"]


def _train(
    stem: str, name: str, roles: dict, sources: list[dict], val: dict, batch: int, steps: int, lr: float, view: dict
) -> dict[str, Any]:
    return {
        "teach": stem, "name": name, **roles, "data": {"train": sources, "val": [val], "batch": batch}, "args": dict(view),
        "optim": {"adamw": {"lr": lr, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5}, "steps": steps,
        "evaluate_percent": 20,
    }  # fmt: skip


def _teacher(wishes: Wishes, known: Source, size: int, chosen: Any) -> tuple[dict | None, list[dict]]:
    """The spec of a teacher that is there already, or None when one is to be trained."""
    if wishes.teacher is None:
        chosen("teacher", TEACHER["backbone"], "no teacher was given, so one is trained on the labels")
        return None, []
    if not (Path(wishes.teacher) / "artifact.json").is_file():
        raise MarrowError(f"no artifact at {wishes.teacher}", where="--teacher",
                          hint="Give the folder of a task artifact, such as runs/NAME/teacher.")  # fmt: skip
    found = Artifact.open(wishes.teacher)
    if found.kind != "task":
        raise MarrowError(
            f"{wishes.teacher} is a {found.kind}; a task artifact with a head is needed", where="--teacher"
        )
    if known.classes is None or found.meta["labels"] != known.classes:
        theirs = ", ".join((found.meta["labels"] or ["no names"])[:5])
        raise MarrowError(
            f"its classes ({theirs}) are not the data's ({', '.join((known.classes or [])[:5])})", where="--teacher"
        )
    return {"artifact": wishes.teacher}, []


def _size(wishes: Wishes, known: Source, embedded: bool, chosen: Any) -> int:
    if wishes.img_size:
        return wishes.img_size
    if embedded:
        return chosen("img_size", 32, "the digits are stored at 32 px")
    sides = []
    for i in range(0, len(known), max(1, len(known) // LOOKED_AT)):
        try:
            sides.append(min(known[i]["image"].shape[-2:]))
        except Unreadable:
            continue
    if not sides:
        raise MarrowError("none of the images looked at can be read", where="--data")
    middle = statistics.median(sides)
    size = min(128, max(32, int(middle) // 32 * 32))
    return chosen("img_size", size, f"the median short side is {middle:.0f} px; at most 128, which two cores can train")


def _steps(wishes: Wishes, count: int, batch: int, embedded: bool, chosen: Any) -> dict[str, int]:
    if wishes.epochs:
        steps = max(1, round(wishes.epochs * count / batch))
        return {"teacher": steps, "student": steps, "recovery": max(1, steps // 2)}
    if embedded:
        chosen(
            "steps", "150 and 250", "teacher and student; by then the accuracy on validation images has levelled off"
        )
        return {"teacher": 150, "student": 250, "recovery": 100}
    steps = min(2000, max(150, 20 * count // batch))
    chosen("steps", steps, "20 passes over the images, between 150 and 2,000 steps")
    return {"teacher": steps, "student": steps, "recovery": steps // 2}
