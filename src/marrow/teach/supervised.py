"""Plain training on labels."""

from __future__ import annotations

from typing import Any, Mapping

from torch import Tensor

from ..core.contracts import Backbone, Clock, Method, Step, Task
from ..core.errors import MarrowError
from ..data.randaugment import RandAugmented
from ..data.views import Augment


class Supervised(Method):
    """Minimises the task's own losses on random views.

    crop: shares of the area between which a random cut is drawn; None cuts a picture of the input's size out of one with
    `pad` black pixels around it. flip: mirror at random, wrong where left and right mean something, as in digits.
    head_only: what lies outside of the task's backbones is trained, and they stay as they are, in eval mode and without
    gradient (`requires_grad`, in this process). A stage with it and one without are linear probing, then fine-tuning,
    which keeps pre-trained features from being distorted by an untrained head (Kumar et al., ICLR 2022, sec. 3).
    randaugment: strength of two random operations on each view, 10 being timm's nominal end; 0 leaves them out.
    size: of the views, where it is not that of the task's input, such as windows of large pictures.
    """

    gives = frozenset({"embedding-loss"})

    def __init__(
        self,
        task: Task,
        *,
        crop: tuple[float, float] | None = None,
        pad: int = 0,
        flip: bool = False,
        head_only: bool = False,
        size: tuple[int, int] | None = None,
        randaugment: int = 0,
    ):
        super().__init__()
        self.task = task
        cut = Augment(size or task.input.size, crop=crop, flip=flip, pad=pad)
        self.view = RandAugmented(cut, randaugment) if randaugment else cut
        self.kept = [m for m in task.modules() if isinstance(m, Backbone)] if head_only else []
        if head_only and not self.kept:
            raise MarrowError("this task has no backbone to keep as it is", where="supervised.head_only")
        for backbone in self.kept:
            backbone.requires_grad_(
                False
            ).eval()  # so no graph is built inside, and DDP waits for no gradient from there
        if head_only and not any(p.requires_grad for p in task.parameters()):
            raise MarrowError("this task has nothing to train outside of its backbone", where="supervised.head_only")

    def train(self, mode: bool = True) -> "Supervised":
        super().train(mode)
        for backbone in self.kept:
            backbone.eval()
        return self

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        return self.score(self.embed(batch), batch, clock)

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return self.task(batch)

    def score(self, z: dict[str, Tensor], batch: Mapping[str, Any], clock: Clock) -> Step:
        return Step(self.task.losses(z, batch))

    def views(self) -> Augment | RandAugmented:
        return self.view

    def product(self) -> Task:
        return self.task
