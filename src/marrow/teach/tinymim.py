"""TinyMIM: a small ViT learns how the tokens of a masked-image teacher relate to each other, without any label.

Ren et al., "TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models", CVPR 2023.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Mapping

import torch
from torch import nn
from torchvision.transforms import v2 as transforms

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..core.photo import PhotoView
from ..core.wrappers import Frozen
from ..data.views import Augment
from ..nn.block_attention import (
    Attended,
    block_index,
    check_heads,
    check_same_patches,
    freeze_behind,
    plan_of,
    up_to,
    without_prefix,
)
from ..nn.shared_view import resized, shared_size
from ..nn.token_relations import relation_kl
from ..nn.whitened import whitened_smooth_l1


@dataclasses.dataclass(frozen=True)
class Jittered(PhotoView):
    """`image` as `view` shows it, for the teacher, and `jittered`, the same in other colours, for the student."""

    view: Augment
    strength: float

    def __call__(self, example: dict) -> dict:
        shown = self.view(example)
        jitter = transforms.ColorJitter(*(self.strength,) * 3)
        return {**shown, "jittered": jitter(shown["image"])}


def check_relations(relations: tuple[str, ...], features: float) -> None:
    if wrong := [r for r in relations if len(r) != 2 or set(r) - set("qkv")]:
        raise MarrowError(f"'{wrong[0]}' is no relation; it is two letters of q, k and v, such as qk or vv",
                          where="tinymim.relations")  # fmt: skip
    if features < 0 or not (relations or features):
        raise MarrowError("there is nothing to learn without relations and with a weight of features that is not above 0",
                          where="tinymim.features" if features < 0 else "tinymim.relations")  # fmt: skip


class TinyMIM(Method):
    """One block of the student takes over the relations between tokens in one block of its teacher (sec. 3.2).

    R_qk = softmax(q k^T / sqrt(d)) is the attention map, R_vv = softmax(v v^T / sqrt(d)); the loss is the mean
    KL(teacher || student) of each. The student's block is cut into as many heads as the teacher has, of its own width:
    only here, the net keeps its own. Several stages, each student the next one's teacher, are the paper's sequential
    distillation.

    Both passes end with the relations. So the rest of the student's block, later blocks and the last norm stay untrained
    as they are, without gradient (`requires_grad`, in this process); fine-tuning trains them. The teacher runs in eval
    mode, so without drop-path; the student has that of its spec, 0.1 in the paper. Where one of them has other prefix
    tokens, patches alone are related.

    student_layer, teacher_layer: blocks from 0, from the end where negative; the paper takes 17 of a ViT-L and the last of
    a ViT-B. features: weight of the paper's ablation, the tokens that enter the student's attention, projected, against
    the teacher's whitened ones. crop, pad, flip: the view that both share, as in `supervised`. jitter: of brightness,
    contrast and saturation, for the student alone.

    Deviations: cuts are resized bilinearly, not bicubically; positions are those of the backbone, learned in most of timm's.
    A relative position bias (BEiT) is part of neither net's relations; a rotary embedding is.
    """

    needs = {"student": {"qkv"}, "teacher": {"qkv"}}

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        *,
        student_layer: int = -1,
        teacher_layer: int = -1,
        relations: tuple[str, ...] = ("qk", "vv"),
        features: float = 0.0,
        crop: tuple[float, float] | None = (0.2, 1.0),
        pad: int = 0,
        flip: bool = True,
        jitter: float = 0.4,
    ):
        super().__init__()
        check_relations(relations, features)
        mine, theirs = plan_of(student, "tinymim.student"), plan_of(teacher, "tinymim.teacher")
        self.student_block = block_index(student_layer, mine, "tinymim.student_layer")
        self.teacher_block = block_index(teacher_layer, theirs, "tinymim.teacher_layer")
        check_same_patches(mine, theirs, "tinymim")
        check_heads(student, self.student_block, mine, theirs.heads, "tinymim.student")
        self.heads, self.relations, self.features = theirs.heads, relations, features
        self.prefixes = (0, 0) if mine.prefix == theirs.prefix else (mine.prefix, theirs.prefix)
        freeze_behind(student, self.student_block, "".join({*"".join(relations), *("x" if features else "")}))
        self.student, self.teacher = student, Frozen(teacher)
        if features:
            widths = (net.root.get_submodule("blocks.0.attn.proj").out_features for net in (student, teacher))
            self.projection = nn.Linear(*widths)
        view = Augment(shared_size(student.input, teacher.input, "tinymim"), crop=crop, flip=flip, pad=pad)
        if jitter < 0:
            raise MarrowError(f"a strength of {jitter} is below 0", where="tinymim.jitter")
        self.view: Callable[[dict], dict] = Jittered(view, jitter) if jitter else view

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        shown = resized(batch.get("jittered", batch["image"]), self.student.input)
        student = up_to(self.student, shown, [self.student_block], self.heads)[self.student_block]
        teacher = self.asked(batch)
        student, teacher = (without_prefix(each, n) for each, n in zip((student, teacher), self.prefixes))
        losses = {kind: relation_kl(student, teacher, kind) for kind in self.relations}
        if self.features:
            losses["features"] = self.features * whitened_smooth_l1(self.projection(student.x), teacher.x)
        return Step(losses)

    @torch.no_grad()
    def asked(self, batch: Mapping[str, Any]) -> Attended:
        image = resized(batch["image"], self.teacher.module.input)
        return up_to(self.teacher.module, image, [self.teacher_block])[self.teacher_block]

    def views(self) -> Callable[[dict], dict]:
        return self.view

    def product(self) -> Backbone:
        return self.student
