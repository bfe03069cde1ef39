"""What `marrow make` decides before it runs; each choice with its reason, the whole chain written down as a recipe."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Mapping

import torch

from ..core.models import resolve
from ..core.resources import usual_workers
from ..core.source import Source
from ..core.timm_backbone import arguments_of
from ..data import open_source
from ..data.check import check_labelled
from ..data.classes import class_counts, imbalanced
from . import case as cases
from . import chain, lengths, pretrain, splits
from .case import Case
from .given import Given, given
from .wishes import SKIPPABLE, Wishes

# Plain convolutions: of the nets tried at 32 px the ones whose int8 files are faster than fp32 and as accurate.
TEACHER = {"backbone": "resnet18"}
STUDENT = {"backbone": "resnet10t", "channels": [48, 96, 192, 384], "stem_width": 24}
LABELS_EACH = 5  # of the digits, for the student's baseline


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe, and what the recipe does not say.

    metric: of every row. train, val, test: sources that are compared with, chosen by and measured on. missing: rows that
    the chain leaves out -> why. teacher: the spec of one that no stage makes. name: of the run's folder. pretrained: the
    method that the student starts from.
    """

    recipe: dict[str, Any]
    case: Case
    metric: str
    choices: list[dict[str, Any]]
    train: dict[str, Any]
    val: dict[str, Any]
    test: dict[str, Any]
    unlabelled: dict[str, Any] | None
    data: dict[str, Any]
    missing: dict[str, str]
    name: str
    pretrained: str | None = None

    @property
    def teacher(self) -> dict[str, Any] | None:
        return self.case.given.spec if self.case.given and not self.case.fit else None


def plan(wishes: Wishes, student: Mapping[str, Any] | None = None, why: str = "") -> Plan:
    """Opens the data, looks at it, and writes the chain. student: a backbone chosen by measuring, `why` says how."""
    choices: list[dict[str, Any]] = []

    def choose(what: str, value: Any, reason: str) -> Any:
        choices.append({"what": what, "value": value, "reason": reason})
        return value

    images = wishes.data or "digits"
    embedded = images == "digits"
    parts, known = _opened(images, wishes)
    case = cases.find(wishes, known)
    count = len(known)
    size = lengths.image_size(wishes, known, embedded, _native(case.given), choose)
    batch = wishes.batch or choose("batch", lengths.usual_batch(count), "64, less for fewer than 640 images")
    steps = lengths.steps_of(wishes, count, batch, embedded, choose)
    labelled = case.kind == "labels"
    workers, machine = _machine(wishes.device, choose)
    training = chain.Training([parts.train], parts.val if labelled else None, batch, workers, _view(embedded, choose),
                              machine, _metric(known, choose) if labelled else None)  # fmt: skip
    few = dict(parts.train)
    if embedded:
        few |= {"per_class": LABELS_EACH}
        choose("labels", f"{LABELS_EACH} a class", "the teacher knows all training labels; the student's baseline gets "
               "these few, as a user with few labels would, and the student none at all")  # fmt: skip
    more = None
    if wishes.unlabelled:  # copies of what is measured with must not be trained on
        more = {"images": wishes.unlabelled, "labels": False, "without": [parts.val, parts.test]}
    pool = [{**parts.train, "labels": False}, *([more] if more else [])]
    net = _student(wishes, student, why, size, choose)
    teacher, stages = _teacher(wishes, case, training, steps, size, choose)
    body = dict(teacher) if case.kind == "features" else pretrain.without_head(teacher)
    first = pretrain.stages(wishes.pretrain, training, pool, count, net, body, stages, steps["student"], choose)
    stages += _students(wishes, case, training, few, pool, net, first, teacher, steps, choose)
    stages += _files(wishes, case, pool[0], {**parts.val, **({} if labelled else {"labels": False})})
    if wishes.compare:
        stages += _compared(wishes, case, training.on(few), steps, size, pool[0], parts.val, choose)
    recipe = {"seed": wishes.seed, "stages": stages}
    digest = hashlib.sha256(json.dumps([recipe, str(wishes.budgets)], sort_keys=True).encode()).hexdigest()[:8]
    return Plan(
        recipe, case, _metric_of(case, training), choices, parts.train, parts.val, parts.test, more,
        _facts(images, case, known, parts, few, more, size), _missing(wishes, case), f"{Path(images).name}-{digest}",
        wishes.pretrain,
    )  # fmt: skip


def _opened(images: str, wishes: Wishes) -> tuple[splits.Parts, Source]:
    """The splits, and train opened; labels count only where they stand for two or more classes."""
    parts = splits.parts(images, wishes.val, wishes.test, group=wishes.group_by)
    known = open_source(parts.train, "--data")
    if known.classes is not None:
        check_labelled(known, "--data")
        return splits.Parts(parts.train, *(_counted_alike(known, part) for part in parts[1:])), known
    parts = splits.parts(images, wishes.val, wishes.test, labelled=False, group=wishes.group_by)
    return parts, open_source(parts.train, "--data")


def _counted_alike(known: Source, part: dict[str, Any]) -> dict[str, Any]:
    """A set of its own that lacks some classes is numbered by those of the training images."""
    theirs = open_source(part, "--data").classes
    return {**part, "classes": known.classes} if theirs and theirs != known.classes else part


def _machine(device: str, choose: lengths.Choose) -> tuple[int, dict[str, Any]]:
    """Loader workers, and settings of the training stages."""
    gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    workers = usual_workers("cuda" if gpu else "cpu", os.cpu_count() or 1)
    if not gpu:
        return workers, {}
    choose("precision", "bf16-mixed", "a GPU computes it faster, and with the range of fp32 no scaling is needed")
    return workers, {"precision": "bf16-mixed", "channels_last": True}


def _view(embedded: bool, choose: lengths.Choose) -> dict[str, Any]:
    view: dict[str, Any] = {"crop": [0.7, 1.0], "flip": False} if embedded else {"crop": [0.35, 1.0], "flip": True}
    choose("views", f"cuts of {view['crop'][0]:.0%} or more" + (", mirrored" if view["flip"] else ""),
           "a mirrored digit is no digit" if embedded else "photos keep their meaning when mirrored")  # fmt: skip
    return view


def _metric(known: Source, choose: lengths.Choose) -> str | None:
    """The metric that the best weights are kept by, where it is not the first."""
    counts = class_counts(known)
    if not imbalanced(counts):
        return None
    low, high = min(counts, key=lambda c: counts[c]), max(counts, key=lambda c: counts[c])
    return choose("metric", "balanced_top1", f"'{high}' has {counts[high]} images, '{low}' {counts[low]}: the mean of "
                  "the classes' accuracies counts all alike")  # fmt: skip


def _metric_of(case: Case, training: chain.Training) -> str:
    return {"answers": "agreement", "features": "knn_agreement"}.get(case.kind) or training.select or "top1"


def _student(
    wishes: Wishes, measured: Mapping[str, Any] | None, why: str, size: int, choose: lengths.Choose
) -> dict[str, Any]:
    if wishes.student:
        return _network(given(wishes.student, "--student", pretrained=False), size)
    net = dict(measured or STUDENT)
    widths = f", channels {net['channels'][0]} to {net['channels'][-1]}" if "channels" in net else ""
    choose("student", f"{net['backbone']}{widths}",
           why or "plain convolutions: small, and faster in int8 than in fp32")  # fmt: skip
    return {**net, "img_size": size}


def _teacher(
    wishes: Wishes, case: Case, training: chain.Training, steps: Mapping[str, int], size: int, choose: lengths.Choose
) -> tuple[dict[str, Any], list[chain.Stage]]:
    """The teacher as a spec, and the stages that make it."""
    classes = len(case.classes or ())
    if case.fit == "scratch":
        choose("teacher", TEACHER["backbone"], "no teacher was given, so one is trained on the labels")
        task = {"task": "classify", "backbone": {**TEACHER, "img_size": size}, "classes": classes}
        roles = {"task": task}
        return {"stage": "teacher"}, [
            training.stage("supervised", "teacher", roles, steps["teacher"], chain.RATES["teacher"])
        ]
    assert case.given is not None
    choose("teacher", case.given.name, f"as given, from {Path(case.given.source).name}")
    if case.fit is None:
        if case.class_map and (dropped := case.class_map.count(-1)):
            choose("class map", f"{len(case.class_map) - dropped} of the teacher's {len(case.class_map)} classes",
                   "the others are no class of the data and are left out of its answers")  # fmt: skip
        return dict(case.given.spec), []
    finetune = "finetune" not in wishes.skip
    choose("teacher's head", f"{classes} classes, then all weights" if finetune else f"{classes} classes",
           "a new head on fixed features first, so that it does not spoil them" if finetune else SKIPPABLE["finetune"])  # fmt: skip
    network = _network(case.given, size, own=True)
    rate = "finetune of one size" if _of_one_size(network) else "finetune"
    return {"stage": "teacher"}, chain.fitted_teacher(training, network, classes, steps, rate if finetune else None)


def _native(teacher: Given | None) -> int | None:
    """Pixels of the longer side of what a given teacher sees."""
    return max(resolve(teacher.spec, {}, "--teacher", meta=True).input.size) if teacher else None


def _network(found: Given, size: int, own: bool = False) -> dict[str, Any]:
    """A given model without its head, for images of this size if it can be built for them; a saved one has its size.

    own: a net that was trained for one size, as transformers are, keeps that.
    """
    if "artifact" in found.spec:
        return {**found.spec, **({"part": "backbone"} if found.kind == "task" else {})}
    spec = found.spec["backbone"] if found.kind == "task" else found.spec
    kept = "img_size" in spec or (own and _of_one_size(spec))
    return dict(spec) if kept else {**spec, "img_size": size}


def _of_one_size(spec: Mapping[str, Any]) -> bool:
    """Whether a net is built for a size, as transformers are."""
    name = str(spec.get("backbone", ""))
    return name.startswith("hf:") or (bool(name) and "img_size" in arguments_of(name))


def _students(
    wishes: Wishes, case: Case, training: chain.Training, few: dict, pool: list[dict], net: dict,
    first: list[chain.Stage], teacher: dict, steps: Mapping[str, int], choose: lengths.Choose,
) -> list[chain.Stage]:  # fmt: skip
    """Baseline, student, and the pruned student. first: makes the backbone that the student starts from, if not `net`."""
    stem = "feature_distillation" if case.kind == "features" else "ssld"
    args = {"class_map": list(case.class_map)} if case.class_map else {}

    def small(backbone: dict[str, Any]) -> dict[str, Any]:
        headed = {"task": "classify", "backbone": backbone, "classes": len(case.classes or ())}
        return backbone if case.kind == "features" else headed

    stages = []
    if case.kind == "labels" and "baseline" not in wishes.skip:
        baseline = training.on(few)
        stages.append(
            baseline.stage("supervised", "baseline", {"task": small(net)}, steps["student"], chain.RATES["scratch"])
        )
    stages += first
    taught = training.on(*pool)
    roles = {"student": small({"stage": first[0]["name"]} if first else net), "teacher": teacher}
    stages.append(taught.stage(stem, "student", roles, steps["student"], chain.RATES["scratch"], **args))
    if "prune" not in wishes.skip:
        choose("pruned", f"{chain.RATIO:.0%} of the channels", "then trained on with the teacher, "
               f"{steps['recovery']} steps at a third of the rate")  # fmt: skip
        stages += chain.pruned(taught, stem, teacher, steps["recovery"], **args)
    return stages


def _files(wishes: Wishes, case: Case, calibration: dict, parity: dict) -> list[chain.Stage]:
    """Files of the last model; of the student before pruning too, in case pruning costs more than may be lost."""

    def model(stage: str) -> dict[str, Any]:
        found = {"stage": stage}
        return {"task": "embed", "backbone": found} if case.kind == "features" else found

    kinds = {"onnx": "fp32", **({} if "int8" in wishes.skip else {"int8": "int8"})}
    if "prune" in wishes.skip:
        return chain.files(kinds, model("student"), calibration, parity)
    before = {stem: f"student_{name}" for stem, name in kinds.items()}
    return [*chain.files(kinds, model("pruned"), calibration, parity),
            *chain.files(before, model("student"), calibration, parity)]  # fmt: skip


def _compared(
    wishes: Wishes, case: Case, training: chain.Training, steps: Mapping[str, int], size: int, calibration: dict,
    parity: dict, choose: lengths.Choose,
) -> list[chain.Stage]:  # fmt: skip
    other = given(str(wishes.compare), "--compare")
    choose("compared with", other.name,
           f"from {Path(other.source).name}, fine-tuned on the same labels for as many steps")  # fmt: skip
    task = {"task": "classify", "backbone": _network(other, size), "classes": len(case.classes or ())}
    names = {"onnx": "compare_fp32", **({} if "int8" in wishes.skip else {"int8": "compare_int8"})}
    return [
        training.stage("supervised", "compare", {"task": task}, steps["student"], chain.RATES["compare"]),
        *chain.files(names, {"stage": "compare"}, calibration, parity),
    ]


def _missing(wishes: Wishes, case: Case) -> dict[str, str]:
    found = {
        row: f"left out by --skip {word}: {SKIPPABLE[word]}"
        for word, row in (("baseline", "baseline"), ("prune", "pruned"), ("int8", "int8"))
        if word in wishes.skip
    }
    return {**found, **({"baseline": case.no_baseline} if case.no_baseline else {})}


def _facts(
    images: str, case: Case, known: Source, parts: splits.Parts, few: dict, more: dict | None, size: int
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "images": Path(images).name,
        "classes": len(case.classes or ()) or None,
        "train": len(known),
    }
    if case.kind == "labels":
        facts["labels of the baseline"] = len(open_source(few))
    facts |= {"val": len(open_source(parts.val, "--val")), "test": len(open_source(parts.test, "--test"))}
    if more:
        facts["unlabelled"] = len(open_source(more, "--unlabelled"))
    return {k: v for k, v in {**facts, "size": size}.items() if v is not None}
