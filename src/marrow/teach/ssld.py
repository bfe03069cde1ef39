"""SSLD: a small classifier learns a big one's predictions, without any label.

Cui et al., "Beyond Self-Supervision: A Simple Yet Effective Network Distillation Alternative to Improve Backbones", 2021.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Literal, Mapping

import torch
from torch import Tensor, nn

from ..core.contracts import Backbone, Clock, Method, Step, Task
from ..core.errors import MarrowError
from ..core.preprocess import plain
from ..core.wrappers import Frozen
from ..data.views import Augment
from ..nn import divergence as div
from ..nn.class_map import check_class_map, map_logits
from ..nn.shared_view import resized, shared_size

DIVERGENCES = {"sym_kl": div.sym_kl, "js": div.js, "kl": div.kl, "ce": div.soft_ce}


def divergence_of(student: Tensor, teacher: Tensor, kind: str, activation: str, temperature: float) -> Tensor:
    """Mean over the batch of T^2 times the divergence between two sets of logits (B, C).

    Independent (sigmoid) classes are C distributions over {yes, no}, whose divergences add up. T^2 keeps the gradient's
    size independent of the temperature.
    """
    if activation == "sigmoid":
        student, teacher = two_way(student), two_way(teacher)
    value = DIVERGENCES[kind](student, teacher, temperature)
    return temperature**2 * value.flatten(1).sum(1).mean() if value.ndim > 1 else temperature**2 * value.mean()


def two_way(logits: Tensor) -> Tensor:
    """(B, C) -> (B, C, 2), whose softmax is (sigmoid, 1 - sigmoid)."""
    return torch.stack([logits, torch.zeros_like(logits)], -1)


def check_informed(teacher: Tensor, activation: str) -> None:
    """Raise when the posteriors of logits (B, C) are as good as uniform: such a teacher was never trained.

    The paper's setting has many classes and its sign is a mean largest probability under 2 / C. Two classes would then
    never pass, so for fewer than twenty the bound is 1 / C + 0.05.
    """
    posterior = two_way(teacher).softmax(-1) if activation == "sigmoid" else teacher.softmax(-1)
    classes = posterior.shape[-1]
    bound, sure = min(2 / classes, 1 / classes + 0.05), float(posterior.amax(-1).mean())
    if sure < bound:
        raise MarrowError(f"the teacher does not tell its classes apart: its largest probability is {sure:.3f} in the "
                          f"mean of the first batch, and an untrained one has less than {bound:.3f}",
                          where="ssld.teacher", hint="Give a teacher with trained weights and a trained head.")  # fmt: skip


def check_same_classes(student: Task, teacher: Task, class_map: tuple[int, ...], activation: str) -> None:
    ours, theirs = student.classes, teacher.classes
    if class_map:
        check_class_map(class_map, theirs, ours, "ssld.class_map")
        if activation == "sigmoid" and len([c for c in class_map if c >= 0]) > ours:
            raise MarrowError("class_map joins classes, which independent (sigmoid) classes do not allow",
                              where="ssld.class_map")  # fmt: skip
    elif ours != theirs:
        raise MarrowError(f"teacher has {theirs} outputs, student {ours}: give both the same classes (or `class_map=`)",
                          where="ssld")  # fmt: skip
    elif student.labels and teacher.labels and student.labels != teacher.labels:
        raise MarrowError("teacher and student name their classes differently", where="ssld",
                          hint="Give `class_map=`, for each class of the teacher the student's.")  # fmt: skip


def backbones(task: Task) -> list[Backbone]:
    return [m for m in task.children() if isinstance(m, Backbone)]


def without_dropout(task: Task) -> Task:
    """Soft targets regularise enough (the reference sets dropout to 0); stochastic depth stays."""
    for m in task.modules():
        if isinstance(m, nn.modules.dropout._DropoutNd):
            m.p = 0.0
        if "drop_rate" in m.__dict__:  # timm's classifier dropout is a number, not a module
            m.drop_rate = 0.0
    return task


class SSLD(Method):
    """Student and teacher see the same view; the loss is the divergence of their posteriors (by default symmetric KL).

    Labels are never read, so labelled and unlabelled sources mix. The paper's second stage is this method again on the
    labelled set's images with a hundredth of the learning rate; its "Fix" stage is `head_only` at the test size.

    crop, pad, flip: the view, as in `supervised`. divergence: "sym_kl" is what the reference ran under the name of JS; "js" is the real one, "kl" is KL(teacher ||
    student). teacher_bn: "batch" runs the teacher's BatchNorm on the batch's statistics as the reference does (76.00 against
    75.84 top-1); it wants batches of 32 or more. class_map: for each class of the teacher the student's class, or -1.

    Deviation: `teacher_bn` is "running" by default, since a batch of a few classes or images distorts the teacher.
    """

    reads_labels = False
    needs = {"student": {"logits"}, "teacher": {"logits"}}
    gives = frozenset({"embedding-loss"})

    def __init__(
        self,
        student: Task,
        teacher: Task,
        *,
        divergence: Literal["sym_kl", "js", "kl", "ce"] = "sym_kl",
        temperature: float = 1.0,
        activation: Literal["softmax", "sigmoid"] = "softmax",
        teacher_bn: Literal["batch", "running"] = "running",
        class_map: tuple[int, ...] = (),
        head_only: bool = False,
        crop: tuple[float, float] | None = (0.08, 1.0),
        pad: int = 0,
        flip: bool = True,
    ):
        super().__init__()
        if temperature <= 0:
            raise MarrowError(f"{temperature} is not a positive number", where="ssld.temperature")
        self.divergence, self.temperature, self.activation = divergence, temperature, activation
        self.head_only = head_only
        check_same_classes(student, teacher, class_map, activation)
        if student.labels is None and not class_map:
            student.labels = teacher.labels
        self.student = without_dropout(student)
        self.teacher = Frozen(teacher, batch_stats=teacher_bn == "batch")
        self.register_buffer("class_map", torch.tensor(class_map, dtype=torch.long) if class_map else None, False)
        size = shared_size(student.input, teacher.input, "ssld")
        self.view: Callable[[dict], dict] = Augment(size, crop=crop, flip=flip, pad=pad)
        if head_only:
            self.view = plain(dataclasses.replace(student.input, size=size))
            for part in backbones(student):
                part.requires_grad_(False)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        return self.score(self.embed(batch), batch, clock)

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self.student({**batch, "image": resized(batch["image"], self.student.input)})

    def score(self, z: dict[str, Tensor], batch: Mapping[str, Any], clock: Clock) -> Step:
        student = z["logits"]
        (teacher,) = self.taught(batch).values()
        if self.class_map is not None:
            teacher = map_logits(teacher, self.class_map, student.shape[-1])
        if clock.step == 0:
            check_informed(teacher, self.activation)
        loss = divergence_of(student, teacher, self.divergence, self.activation, self.temperature)
        logs = {
            "agreement": (student.argmax(-1) == teacher.argmax(-1)).float().mean(),
            "teacher_entropy": div.entropy(teacher).mean(),
        }
        return Step({self.divergence: loss}, logs)

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        view = {**batch, "image": resized(batch["image"], self.teacher.module.input)}
        # How many classes may be stored: the symmetric divergences weigh a class by the student's probability too.
        softmax = "top_logits" if self.divergence in ("kl", "ce") else "logits"
        name = softmax if self.activation == "softmax" else "two_way"
        return {name: self.teacher(view)["logits"].float()}

    def train(self, mode: bool = True) -> SSLD:
        super().train(mode)
        if self.head_only:
            for part in backbones(self.student):
                part.eval()
        return self

    def views(self) -> Callable[[dict], dict]:
        return self.view

    def product(self) -> Task:
        return self.student
