"""Plain training on labels."""

from __future__ import annotations

from typing import Any, Mapping

from ..core.contracts import Clock, Method, Step, Task
from ..data.views import Augment


class Supervised(Method):
    """Minimises the task's own losses on random views.

    crop: shares of the area between which a random cut is drawn; None cuts a picture of the input's size out of one with
    `pad` black pixels around it. flip: mirror at random, wrong where left and right mean something, as in digits.
    """

    def __init__(self, task: Task, *, crop: tuple[float, float] | None = None, pad: int = 0, flip: bool = False):
        super().__init__()
        self.task = task
        self.view = Augment(task.input.size, crop=crop, flip=flip, pad=pad)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        return Step(self.task.losses(self.task(batch), batch))

    def views(self) -> Augment:
        return self.view

    def product(self) -> Task:
        return self.task
