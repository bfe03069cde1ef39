"""The chain as stages of a recipe."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Sequence

from .lengths import measuring

RATIO = 0.3  # of the student's channels that pruning takes out
# finetune: on validation images of PACS photo a ResNet-56 of CIFAR-10 came to 73.6, 84.8, 86.4 and 85.8 % at 2e-4, 5e-4,
# 1e-3 and 3e-3 (120 steps, means of two seeds). Of one size: transformers, at a rate usual in papers, not tried here.
RATES = {"scratch": 3e-3, "teacher": 2e-3, "probe": 3e-3, "finetune": 1e-3, "compare": 1e-3, "recovery": 1e-3}
RATES |= {"finetune of one size": 1e-4, "pretrain": 1e-3}

Stage = dict[str, Any]
Spec = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Training:
    """What all training stages of a chain share. val: None where there are no labels to measure with.

    machine: settings that follow from the device. select: the metric that the best weights are kept by.
    """

    train: Sequence[Mapping[str, Any]]
    val: Mapping[str, Any] | None
    batch: int
    workers: int
    view: Mapping[str, Any]
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    select: str | None = None

    def stage(self, stem: str, name: str, roles: Mapping[str, Spec], steps: int, lr: float, **args: Any) -> Stage:
        data: dict[str, Any] = {"train": [dict(s) for s in self.train], "batch": self.batch}
        if self.val:
            data["val"] = [dict(self.val)]
        if self.workers:
            data["workers"] = self.workers
        chosen = {"select": self.select} if self.val and self.select else {}
        return {
            "teach": stem, "name": name, **roles, "data": data, "args": {**self.view, **args},
            "optim": {"adamw": {"lr": lr, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5},
            "steps": steps, **(measuring(steps) if self.val else {}), **chosen, **self.machine,
        }  # fmt: skip

    def on(self, *sources: Mapping[str, Any]) -> "Training":
        return dataclasses.replace(self, train=sources)


def fitted_teacher(
    training: Training, backbone: Spec, classes: int, steps: Mapping[str, int], finetune: str | None
) -> list[Stage]:
    """A ready-made backbone gets a head: first alone, so that it does not spoil the features, then with all weights.

    Kumar et al., "Fine-Tuning can Distort Pretrained Features", ICLR 2022. finetune: the name of its rate; None leaves it
    at the head.
    """
    task = {"task": "classify", "backbone": dict(backbone), "classes": classes}
    head = training.stage("supervised", "probe" if finetune else "teacher", {"task": task}, steps["probe"],
                          RATES["probe"], head_only=True)  # fmt: skip
    if not finetune:
        return [head]
    whole = {"task": {"stage": "probe"}}
    return [head, training.stage("supervised", "teacher", whole, steps["teacher"], RATES[finetune])]


def pruned(training: Training, stem: str, teacher: Spec, steps: int, **args: Any) -> list[Stage]:
    """The student without its smallest channels, then trained on under the teacher."""
    roles = {"student": {"stage": "cut"}, "teacher": dict(teacher)}
    return [
        {"shrink": "prune", "name": "cut", "model": {"stage": "student"}, "args": {"ratio": RATIO}},
        training.stage(stem, "pruned", roles, steps, RATES["recovery"], **args),
    ]


def files(
    names: Mapping[str, str], model: Spec, calibration: Mapping[str, Any], parity: Mapping[str, Any]
) -> list[Stage]:
    """The exported files of one model. names: the exporter's stem -> the stage's name."""
    streams = {"onnx": {}, "int8": {"calibration": [dict(calibration)]}}
    return [{"ship": stem, "name": name, "model": dict(model), "data": {**streams[stem], "parity": [dict(parity)]}}
            for stem, name in names.items()]  # fmt: skip
