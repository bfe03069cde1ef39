"""TinyMIM: a small ViT learns how the tokens of a masked-image teacher relate to each other, without any label.

Ren et al., "TinyMIM: An Empirical Study of Distilling MIM Pre-trained Models", CVPR 2023.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Literal, Mapping

import torch
from torch import Tensor, nn
from torchvision.transforms import v2 as transforms

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..core.photo import PhotoView
from ..core.wrappers import Frozen
from ..data.views import Augment
from ..nn.block_attention import (
    FEATURES,
    Attended,
    block_index,
    check_class_token,
    check_heads,
    check_same_grid,
    feature_width,
    freeze_behind,
    plan_of,
    up_to,
    without_prefix,
)
from ..nn.loose_tokens import check_hidden, check_loose_tokens, only, restricted, seen
from ..nn.shared_view import resized, shared_size
from ..nn.token_relations import relation_kl, relation_mse
from ..nn.whitened import whitened_mse, whitened_smooth_l1

DISTANCES = {"smooth_l1": whitened_smooth_l1, "mse": whitened_mse}
TARGETS = (*FEATURES, "class_token")


@dataclasses.dataclass(frozen=True)
class Jittered(PhotoView):
    """`image` as `view` shows it, for the teacher, and `jittered`, the same in other colours, for the student."""

    view: Augment
    strength: float

    def __call__(self, example: dict) -> dict:
        shown = self.view(example)
        jitter = transforms.ColorJitter(*(self.strength,) * 3)
        return {**shown, "jittered": jitter(shown["image"])}


def check_terms(relations: tuple[str, ...], softmax: bool, features: float, target: str, distance: str) -> None:
    """Raise where there is nothing to compare, or no such thing, or a word about what is not compared."""
    if wrong := [r for r in relations if len(r) != 2 or set(r) - set("qkv")]:
        raise MarrowError(f"'{wrong[0]}' is no relation; it is two letters of q, k and v, such as qk or vv",
                          where="tinymim.relations")  # fmt: skip
    if features < 0 or not (relations or features):
        raise MarrowError("there is nothing to learn without relations and with a weight of features not above 0",
                          where="tinymim.features" if features < 0 else "tinymim.relations")  # fmt: skip
    for name, value, known in (("target", target, TARGETS), ("distance", distance, DISTANCES)):
        if value not in known:
            raise MarrowError(f"'{value}' is none of {', '.join(known)}", where=f"tinymim.{name}")
    if not relations and not softmax:
        raise MarrowError("there are no relations that could go without a softmax", where="tinymim.softmax")
    if not features and (target != "input" or distance != "smooth_l1"):
        raise MarrowError("'target' and 'distance' are about features, whose weight is 0", where="tinymim.features")


class TinyMIM(Method):
    """One block of the student takes over the relations between tokens in one block of its teacher (sec. 3.2).

    R_qk = softmax(q k^T / sqrt(d)) is the attention map, R_vv = softmax(v v^T / sqrt(d)); the loss is the mean
    KL(teacher || student) of each. The student's block is cut into as many heads as the teacher has, of its own width:
    only here, the net keeps its own. Several stages, each student the next one's teacher, are the paper's sequential
    distillation.

    Both passes end with what is compared. So the rest of the student's block, later blocks and the last norm stay
    untrained as they are, without gradient (`requires_grad`, in this process); fine-tuning trains them. The student has
    the `drop_path_rate` of its backbone, 0.1 in the paper; the teacher runs in eval mode, so without any. Where one of
    them has other prefix tokens, patches alone are related.

    student_layer, teacher_layer: blocks from 0, from the end where negative; the paper takes 17 of a ViT-L and the last
    of a ViT-B. A float is the share of the teacher's blocks that ends with it: 0.75 is 17 of a ViT-L.

    The rest are the paper's ablations. softmax: without it the scaled products themselves are compared, by their mean
    squared error. features: weight of one feature of the tokens, projected, against the teacher's whitened one. target:
    which, the input of the attention, its q, k or v, what the attention, the MLP (both before layer scale) or the block
    say, or the class token behind the block. distance: of features. mask: share of the patches that the student does
    not see; what both have is compared.

    crop, pad, flip: the view that both share, as in `supervised`. jitter: of brightness, contrast and saturation, for
    the student alone.

    Deviations: cuts are resized bilinearly, not bicubically; positions are those of the backbone, learned in most of
    timm's. A relative position bias (BEiT) is part of neither net's relations; a rotary embedding is. There is no
    masked reconstruction beside the distillation, in which the paper finds no gain: it would take a decoder, and the
    student's pass to its end.
    """

    reads_labels = False
    needs = {"student": {"qkv"}, "teacher": {"qkv"}}

    def __init__(
        self,
        student: Backbone,
        teacher: Backbone,
        *,
        student_layer: int = -1,
        teacher_layer: int | float = -1,
        relations: tuple[str, ...] = ("qk", "vv"),
        softmax: bool = True,
        features: float = 0.0,
        target: Literal["input", "q", "k", "v", "attention", "mlp", "block", "class_token"] = "input",
        distance: Literal["smooth_l1", "mse"] = "smooth_l1",
        mask: float = 0.0,
        crop: tuple[float, float] | None = (0.2, 1.0),
        pad: int = 0,
        flip: bool = True,
        jitter: float = 0.4,
    ):
        super().__init__()
        check_terms(relations, softmax, features, target, distance)
        mine, theirs = plan_of(student, "tinymim.student"), plan_of(teacher, "tinymim.teacher")
        self.student_block = block_index(student_layer, mine, "tinymim.student_layer")
        self.teacher_block = block_index(teacher_layer, theirs, "tinymim.teacher_layer")
        check_same_grid(mine, theirs, "tinymim")
        if relations:
            check_heads(student, self.student_block, mine, theirs.heads, "tinymim.student")
        if target == "class_token":
            check_class_token(student, "tinymim.student")
            check_class_token(teacher, "tinymim.teacher")
        if mask:
            check_loose_tokens(student, "tinymim.student")
            check_hidden(mask, mine.patches, "tinymim.mask")
        self.heads = theirs.heads if relations else mine.heads
        self.relations, self.compared = relations, relation_kl if softmax else relation_mse
        self.features, self.target, self.distance = features, target, DISTANCES[distance]
        self.reads = "block" if target == "class_token" else target
        self.mask, self.patches = mask, mine.patches
        self.prefixes = (0, 0) if mine.prefix == theirs.prefix else (mine.prefix, theirs.prefix)
        self.prefix = mine.prefix - self.prefixes[0]  # of what both keep
        read = "".join({*"".join(relations), *("x" if features else "")})
        freeze_behind(student, self.student_block, read, self.reads)
        self.student, self.teacher = student, Frozen(teacher)
        if features:
            widths = (feature_width(net, plan, target) for net, plan in ((student, mine), (teacher, theirs)))
            self.projection = nn.Linear(*widths)
        view = Augment(shared_size(student.input, teacher.input, "tinymim"), crop=crop, flip=flip, pad=pad)
        if jitter < 0:
            raise MarrowError(f"a strength of {jitter} is below 0", where="tinymim.jitter")
        self.view: Callable[[dict], dict] = Jittered(view, jitter) if jitter else view

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        shown = resized(batch.get("jittered", batch["image"]), self.student.input)
        places = seen(len(shown), self.patches, self.mask, shown.device) if self.mask else None
        with only(self.student, places):
            student = up_to(self.student, shown, [self.student_block], self.heads, self.reads)[self.student_block]
        teacher = self.asked(batch)
        first = student.x[:, 0], teacher.x[:, 0]
        student, teacher = self.shared(student, teacher, places)
        losses = {kind: self.compared(student, teacher, kind) for kind in self.relations}
        if self.features:
            said, wanted = first if self.target == "class_token" else (student.x, teacher.x)
            losses["features"] = self.features * self.distance(self.projection(said), wanted)
        return Step(losses)

    @torch.no_grad()
    def asked(self, batch: Mapping[str, Any]) -> Attended:
        image = resized(batch["image"], self.teacher.module.input)
        return up_to(self.teacher.module, image, [self.teacher_block], feature=self.reads)[self.teacher_block]

    def shared(self, student: Attended, teacher: Attended, places: Tensor | None) -> tuple[Attended, Attended]:
        """The tokens that both have: without prefixes that differ, without patches that the student does not see."""
        student, teacher = (without_prefix(each, n) for each, n in zip((student, teacher), self.prefixes))
        return student, teacher if places is None else restricted(teacher, places, self.prefix)

    def views(self) -> Callable[[dict], dict]:
        return self.view

    def product(self) -> Backbone:
        return self.student
