"""Supervised training on pictures that are mixed patch by patch, so that every patch has a label."""

from __future__ import annotations

from typing import Any, Mapping

from ..core.contracts import Clock, Method, Step, Task, stem_of
from ..core.errors import MarrowError
from ..data.randaugment import RandAugmented
from ..data.views import Augment
from ..nn.patch_classifier import PatchClassifier
from ..tasks.classify import Classify


class TokenMixing(Method):
    """Token-level mixing of ViT-ResNAS (Liao et al., arXiv 2109.00642), in place of mixup and CutMix.

    Half of a batch has boxes of whole patches pasted in, taken from another place of a partner; half is blended with a
    partner. The loss is the cross-entropy of the task's answer with the shares of the classes in the picture, plus that of
    a linear classifier of every patch with the shares in it; the classifier is dropped afterwards. Both are smoothed as the
    task says. crop, pad, flip, randaugment: the view before it is mixed, as in `supervised`.

    Deviation: partners are the first with the last of each half, as the text does not say how they are paired.
    """

    needs = {"task": {"logits", "tokens", "maps"}}
    per_sample = False  # partners come from the batch

    def __init__(
        self,
        task: Task,
        *,
        crop: tuple[float, float] | None = None,
        pad: int = 0,
        flip: bool = False,
        randaugment: int = 0,
    ):
        super().__init__()
        if not isinstance(task, Classify):
            raise MarrowError(f"mixed pictures are for the task classify, this is {stem_of(type(task))}",
                              where="token_mixing.task")  # fmt: skip
        self.task, self.patches = task, PatchClassifier(task.backbone, task.classes, task.label_smoothing)
        cut = Augment(task.input.size, crop=crop, flip=flip, pad=pad)
        self.view = RandAugmented(cut, randaugment) if randaugment else cut

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        picture = self.patches.mixed(batch, clock.rng)
        features = self.task.backbone(picture.image)
        return Step(self.patches.losses(self.task.head(features.pooled), features.tokens, picture))

    def views(self) -> Augment | RandAugmented:
        return self.view

    def product(self) -> Task:
        return self.task
