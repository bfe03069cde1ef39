"""Hybrid Distillation: attention as diverse as a masked autoencoder's, features as telling as a supervised net's.

Shi et al., "Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners", ICLR 2024. No code was released.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..core.wrappers import Frozen
from ..data.views import Augment
from ..nn.block_attention import (
    Attended,
    Plan,
    attended,
    check_heads,
    check_same_grid,
    feature_width,
    plan_of,
    up_to,
    without_prefix,
)
from ..nn.loose_tokens import check_loose_tokens, dropping, kept, restricted
from ..nn.map_channels import map_shape
from ..nn.shared_view import resized, shared_size
from ..nn.token_relations import relation_kl
from ..nn.whitened import whitened_smooth_l1

RELATIONS = ("qk", "vv")


def student_layers(layers: tuple[int, ...], depth: int) -> list[int]:
    """0-based blocks that take over relations; none given: the two before the last, as far as there are."""
    if wrong := [i for i in layers if not -depth <= i < depth]:
        raise MarrowError(f"there is no block {wrong[0]} in a net of {depth}, which are 0 to {depth - 1}",
                          where="hybrid_distillation.layers")  # fmt: skip
    found = sorted({i % depth for i in layers} or set(range(max(0, depth - 3), depth - 1)))
    if depth - 1 in found or not found:
        raise MarrowError(f"the last block of {depth} is left to the features, whose attention the relations would bind",
                          where="hybrid_distillation.layers")  # fmt: skip
    return found


def same_depth(block: int, ours: int, theirs: int) -> int:
    """The block of a teacher with `theirs` blocks that is as deep in it as `block` is in a student with `ours`."""
    return max(0, int((block + 1) * theirs / ours + 0.5) - 1)


def behind(live: dict[int, Tensor], block: int) -> Tensor | None:
    """The places that a block sees, None where all do."""
    return next((live[b] for b in sorted(live, reverse=True) if b < block), None)


class HybridDistillation(Method):
    """Token relations from one teacher inside, features from another at the output, on one view of each image (sec. 3).

    L = alpha * sum over layers of KL(R^T || R^S) for R_qk and R_vv (as in `tinymim`) + beta * smooth-L1 between the
    student's last tokens, projected by a matrix that is dropped afterwards, and the whitened last map of the feature
    teacher. relation_teacher: pre-trained by masked images. feature_teacher: by labels, captions or contrast; any net whose
    last map has the student's grid, in the paper a ViT.

    After a third and two thirds of its blocks the student drops the most redundant patches, those with the highest mean
    cosine to the others, and keeps a share `keep`; they leave the later blocks and both losses.

    layers: blocks of the student, from the end where negative; none: the two before the last. A relation teacher of
    another depth answers from the block as deep in it, 19 and 21 of 24 for 9 and 10 of 12, and the training begins by
    saying which. Where prefix tokens are not equally many, patches alone are related. alpha, beta: 0 leaves a teacher
    out, which is then neither run nor held against the student. crop, pad, flip: the view, as in `supervised`.

    Deviations, where the paper's text does not settle a detail: the layers, `keep` of 0.7, patches without class token in the
    feature term, beta = 2 of the smooth-L1. Each teacher normalises the view by its own mean and deviation.
    """

    reads_labels = False
    needs = {"student": {"qkv", "tokens"}, "relation_teacher": {"qkv"}, "feature_teacher": {"maps"}}
    tiny = {"feature_teacher": "vit_tiny_patch16_224"}  # of nets with maps, the one with the student's grid

    def __init__(
        self,
        student: Backbone,
        relation_teacher: Backbone,
        feature_teacher: Backbone,
        *,
        layers: tuple[int, ...] = (),
        alpha: float = 1.0,
        beta: float = 1.0,
        keep: float = 0.7,
        crop: tuple[float, float] | None = (0.2, 1.0),
        pad: int = 0,
        flip: bool = True,
    ):
        super().__init__()
        if alpha < 0 or beta < 0 or not alpha + beta:
            raise MarrowError(f"weights of {alpha} and {beta} leave nothing to learn, or turn a loss around",
                              where="hybrid_distillation.alpha")  # fmt: skip
        if not 0 < keep <= 1:
            raise MarrowError(f"{keep} is no share of patches above 0 and up to 1", where="hybrid_distillation.keep")
        mine = plan_of(student, "hybrid_distillation.student")
        if keep < 1:
            check_loose_tokens(student, "hybrid_distillation.student")
        self.layers, self.teacher_layers, self.heads, self.prefixes = [], [], mine.heads, (0, 0)
        views = []
        if alpha:
            theirs = plan_of(relation_teacher, "hybrid_distillation.relation_teacher")
            self.layers = student_layers(layers, mine.depth)
            self.teacher_layers = [same_depth(i, mine.depth, theirs.depth) for i in self.layers]
            check_same_grid(mine, theirs, "hybrid_distillation.relation_teacher")
            for block in self.layers:
                check_heads(student, block, mine, theirs.heads, "hybrid_distillation.student")
            self.heads = theirs.heads
            if mine.prefix != theirs.prefix:
                self.prefixes = mine.prefix, theirs.prefix
            views.append(shared_size(student.input, relation_teacher.input, "hybrid_distillation.relation_teacher"))
        if beta:
            channels = check_map(feature_teacher, mine)
            views.append(shared_size(student.input, feature_teacher.input, "hybrid_distillation.feature_teacher"))
        self.after = sorted({mine.depth // 3, 2 * mine.depth // 3} - {0}) if keep < 1 else []
        self.alpha, self.beta, self.keep, self.prefix = alpha, beta, keep, mine.prefix - self.prefixes[0]
        self.student = student
        self.relation_teacher, self.feature_teacher = Frozen(relation_teacher), Frozen(feature_teacher)
        if beta:
            self.projection = nn.Linear(feature_width(student, mine, "block"), channels)
        height, width = (max(sides) for sides in zip(*views))
        self.view = Augment((height, width), crop=crop, flip=flip, pad=pad)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        image, student = resized(batch["image"], self.student.input), self.student
        with attended(student, self.layers, self.heads) as mine:
            with dropping(student, [count - 1 for count in self.after], self.keep) as live:
                tokens = student.features(image).tokens
        losses = {}
        if self.alpha:
            pairs = list(zip(self.asked(batch), self.layers))
            for kind in RELATIONS:
                each = [relation_kl(without_prefix(mine[block], self.prefixes[0]), self.shown(theirs, live, block), kind)
                        for theirs, block in pairs]  # fmt: skip
                losses[kind] = self.alpha * torch.stack(each).sum()
        if self.beta:
            target = self.features(batch)
            target = kept(target, live[max(live)], 0) if live else target
            losses["features"] = self.beta * whitened_smooth_l1(self.projection(tokens), target)
        return Step(losses)

    def shown(self, teacher: Attended, live: dict[int, Tensor], block: int) -> Attended:
        """What the relation teacher says about the tokens that a block of the student has."""
        teacher, places = without_prefix(teacher, self.prefixes[1]), behind(live, block)
        return teacher if places is None else restricted(teacher, places, self.prefix)

    @torch.no_grad()
    def asked(self, batch: Mapping[str, Any]) -> list[Attended]:
        teacher = self.relation_teacher.module
        found = up_to(teacher, resized(batch["image"], teacher.input), self.teacher_layers)
        return [found[block] for block in self.teacher_layers]

    @torch.no_grad()
    def features(self, batch: Mapping[str, Any]) -> Tensor:
        """The feature teacher's last map as tokens (B, N, C)."""
        teacher = self.feature_teacher
        return teacher(resized(batch["image"], teacher.module.input), maps=(-1,)).maps[0].flatten(2).mT

    def remarks(self, data: Any) -> list[str]:
        if self.layers == self.teacher_layers:
            return []
        pairs = ", ".join(f"{mine} from {theirs}" for mine, theirs in zip(self.layers, self.teacher_layers))
        return [f"the relation teacher has another depth, so blocks of the student take over relations so: {pairs}"]

    def views(self) -> Augment:
        return self.view

    def product(self) -> Backbone:
        return self.student


def check_map(teacher: Backbone, student: Plan) -> int:
    """The channels of the feature teacher's last map; raise unless it has a place for each patch of the student."""
    channels, height, width = map_shape(teacher)
    fits = student.grid == (height, width) if student.grid else student.patches == height * width
    if not fits:
        mine = " x ".join(map(str, student.grid or (student.patches,)))
        raise MarrowError(f"the last map of the teacher is {height} x {width}, the student has {mine} patch tokens: "
                          "they need the same grid", where="hybrid_distillation.feature_teacher")  # fmt: skip
    return channels
