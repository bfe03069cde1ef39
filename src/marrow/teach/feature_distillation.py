"""Feature distillation: a small backbone learns a big one's features from images alone."""

from __future__ import annotations

import math
from typing import Any, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..core.wrappers import Frozen
from ..data.views import Augment
from ..nn.map_channels import map_channels
from ..nn.shared_view import resized, shared_size


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The mean cosine of the vectors (B, D), or of those at each place of (B, D, H, W)."""
    return F.cosine_similarity(a.float(), b.float(), dim=1).mean()


def neighbour(a: Tensor, b: Tensor) -> Tensor:
    """The share of a batch whose nearest other example by features a (B, D) is its nearest by b (B, E) too, by cosine.

    Chance is 1 / (B - 1), so it rises with a smaller batch: good for watching one run, not for comparing two.
    """
    found = []
    for each in (a, b):
        x = F.normalize(each.float(), dim=1)
        # Distances of unit vectors order as their cosines do; a product would be rounded to bf16 under autocast.
        found.append(torch.cdist(x, x).fill_diagonal_(math.inf).argmin(1))
    return (found[0] == found[1]).float().mean()


def same_grid(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Maps (B, C, H, W) of two nets, averaged over the cells of the coarser grid."""
    size = [min(m, n) for m, n in zip(a.shape[-2:], b.shape[-2:])]
    return F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(b, size)


class FeatureDistillation(Method):
    """The cosine between the student's pooled features, linearly projected, and its teacher's on the same view.

    Not a published method but the plain case of several: 1 - cosine is the summary term of AM-RADIO (Ranzinger et al.,
    CVPR 2024), which has several teachers and deeper projections. Here the projection is dropped after training, so what
    it does the student has not learned; two layers left it no closer to its teacher on the digits.

    Logs: `cosine` after the projection; `neighbour`, how often an image's nearest other image of the batch is the same by
    the student's features, without projection, as by the teacher's. The first can rise while the second does not.

    dense: weight of the same loss between the last maps, place by place on the coarser grid of the two. crop, pad, flip:
    the view, as in `supervised`.
    """

    reads_labels = False
    needs = {"student": {"pooled"}, "teacher": {"pooled"}}

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        *,
        dense: float = 0.0,
        crop: tuple[float, float] | None = (0.08, 1.0),
        pad: int = 0,
        flip: bool = True,
    ):
        super().__init__()
        if dense < 0:
            raise MarrowError(f"a weight of {dense} is below 0", where="feature_distillation.dense")
        self.student, self.teacher, self.dense = student, Frozen(teacher), dense
        self.projection = nn.Linear(student.dim, teacher.dim)
        if dense:
            for role, net in (("student", student), ("teacher", teacher)):
                if "maps" not in net.gives:
                    raise MarrowError(f"the dense term compares maps, which the {role} does not give",
                                      where="feature_distillation.dense", hint="Leave it at 0.")  # fmt: skip
            self.map_projection = nn.Conv2d(map_channels(student), map_channels(teacher), 1)
        size = shared_size(student.input, teacher.input, "feature_distillation")
        self.view = Augment(size, crop=crop, flip=flip, pad=pad)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        image, last = batch["image"], (-1,) if self.dense else ()
        student = self.student(resized(image, self.student.input), maps=last)
        teacher = self.taught(batch)
        alike = cosine(self.projection(student.pooled), teacher["pooled"])
        losses, logs = {"pooled": 1 - alike}, {"cosine": alike}
        if len(image) > 1:
            with torch.no_grad():
                logs["neighbour"] = neighbour(student.pooled, teacher["pooled"])
        if self.dense:
            alike = cosine(*same_grid(self.map_projection(student.maps[0]), teacher["map"]))
            losses["dense"], logs["dense_cosine"] = self.dense * (1 - alike), alike
        return Step(losses, logs)

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        teacher = self.teacher(resized(batch["image"], self.teacher.module.input), maps=(-1,) if self.dense else ())
        return {"pooled": teacher.pooled.float(), **({"map": teacher.maps[0].float()} if self.dense else {})}

    def views(self) -> Augment:
        return self.view

    def product(self) -> Backbone:
        return self.student
