"""Hard distillation: labels and the teacher's decisions are learned side by side, each by a token of its own."""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.contracts import Clock, Method, Step, Task
from ..core.errors import MarrowError
from ..core.wrappers import Frozen
from ..data.views import Augment
from ..nn.shared_view import resized, shared_size
from ..tasks.classify import Classify


class HardDistillation(Method):
    """Hard distillation of DeiT (Touvron et al., ICML 2021, eq. 3): half the loss from the label, half from the class that
    the teacher thinks the most probable.

    L = CE(z_class, label) / 2 + CE(z_distillation, argmax teacher) / 2. A student with a distillation token, such as
    `{backbone: vit_res_tiny, distilled: true}`, has an answer of each token, and says their mean afterwards: its linear
    classifier reads both tokens, and each answer is that of one half at double weight. Another student has one answer
    for both. crop, pad, flip: the view, as in `supervised`.

    Deviation: the two halves of the classifier share their bias.
    """

    needs = {"student": {"logits"}, "teacher": {"logits"}}

    def __init__(
        self,
        student: Task,
        teacher: Task,
        *,
        crop: tuple[float, float] | None = (0.08, 1.0),
        pad: int = 0,
        flip: bool = True,
    ):
        super().__init__()
        if student.classes != teacher.classes:
            raise MarrowError(f"teacher has {teacher.classes} outputs, student {student.classes}: give both the same classes",
                              where="hard_distillation")  # fmt: skip
        if student.labels and teacher.labels and student.labels != teacher.labels:
            raise MarrowError("teacher and student name their classes differently", where="hard_distillation")
        self.student, self.teacher = student, Frozen(teacher)
        self.two_tokens = isinstance(student, Classify) and "distillation-token" in student.backbone.gives
        self.view = Augment(
            shared_size(student.input, teacher.input, "hard_distillation"), crop=crop, flip=flip, pad=pad
        )

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        if "label" not in batch:
            raise MarrowError("the batch has no 'label'; this source is unlabelled, and half of the loss needs them",
                              where="hard_distillation", hint="ssld learns from a teacher without labels.")  # fmt: skip
        (decided,) = self.taught(batch).values()
        of_class, of_distillation = (z.float() for z in self.answers(batch))
        logs = {"agreement": (of_distillation.argmax(-1) == decided.argmax(-1)).float().mean()}
        return Step({"label": 0.5 * F.cross_entropy(of_class, batch["label"]),
                     "teacher": 0.5 * F.cross_entropy(of_distillation, decided.argmax(-1))}, logs)  # fmt: skip

    def answers(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits (B, classes) of the class token and of the distillation token."""
        view = {**batch, "image": resized(batch["image"], self.student.input)}
        student: Any = self.student
        if not self.two_tokens:
            logits = student(view)["logits"]
            return logits, logits
        first, second = student.backbone(view["image"]).pooled.chunk(2, 1)
        zeros = torch.zeros_like(first)
        return student.head(torch.cat([2 * first, zeros], 1)), student.head(torch.cat([zeros, 2 * second], 1))

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        view = {**batch, "image": resized(batch["image"], self.teacher.module.input)}
        return {"logits": self.teacher(view)["logits"].float()}

    def views(self) -> Augment:
        return self.view

    def product(self) -> Task:
        return self.student
