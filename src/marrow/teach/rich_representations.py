"""Distilling several representations into one: the last step of rich representations.

Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023 (sec. 3 and 5). The
steps before it are plain training with different `seed`s, `shrink/cat.py`, and `supervised` with `head_only`.
"""

from __future__ import annotations

from typing import Any, Mapping

from torch import Tensor, nn

from ..core.contracts import Backbone, Clock, Method, Step, Task
from ..core.errors import MarrowError
from ..core.wrappers import Frozen
from ..data.views import Augment
from ..nn.cat_head import CatHead
from ..nn.divergence import kl
from ..nn.shared_view import resized, shared_size


def members_kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """sum_i T^2 KL(softmax(teacher_i / T) || softmax(student_i / T)), mean over the batch, of logits (B, n, C)."""
    return temperature**2 * kl(student, teacher, temperature).sum(1).mean()


class RichRepresentations(Method):
    """One trunk with n heads imitates n networks that were trained alike from different seeds; the heads are thrown away.

    The separate heads are the point: the mean of the networks' answers asks for less of the trunk than all of them.
    Labels are never read. teacher: `{edit: cat, of: [...]}` of two or more classifiers, not fine-tuned since.

    Logs: `agreement`, how often a head's first class is that of its network.

    crop, pad, flip: the view, as in `supervised`.
    """

    reads_labels = False
    needs = {"student": {"pooled"}, "teacher": {"members"}}

    def __init__(
        self,
        student: Backbone,
        teacher: Task,
        *,
        temperature: float = 10.0,
        crop: tuple[float, float] | None = (0.08, 1.0),
        pad: int = 0,
        flip: bool = True,
    ):
        super().__init__()
        if temperature <= 0:
            raise MarrowError(f"{temperature} is not a positive number", where="rich_representations.temperature")
        members = dict(teacher.named_children()).get("head")
        if not isinstance(members, CatHead):
            raise MarrowError("the teacher is one network and has no members to tell apart",
                              where="rich_representations.teacher",
                              hint="Give {edit: cat, of: [...]} of two or more classifiers.")  # fmt: skip
        self.count, self.temperature = len(members.widths), temperature
        self.student, self.teacher = student, Frozen(teacher)
        self.heads = nn.Linear(student.dim, self.count * members.out_features)
        self.view = Augment(shared_size(student.input, teacher.input, "rich_representations"), crop=crop, flip=flip,
                            pad=pad)  # fmt: skip

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        said = self.heads(self.student(resized(batch["image"], self.student.input)).pooled)
        student = said.unflatten(1, (self.count, -1))  # (B, n, C)
        teacher = self.taught(batch)["logits"].unflatten(1, (self.count, -1))
        agreement = (student.argmax(-1) == teacher.argmax(-1)).float().mean()
        return Step({"members": members_kl(student, teacher, self.temperature)}, {"agreement": agreement})

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        parts = dict(self.teacher.module.named_children())
        head: Any = parts["head"]
        pooled = parts["backbone"](resized(batch["image"], self.teacher.module.input)).pooled
        return {"logits": head.members(pooled).float().flatten(1)}

    def views(self) -> Augment:
        return self.view

    def product(self) -> Backbone:
        return self.student
