"""Supervised training on balanced classes, of a whole net or of what reads its features."""

from __future__ import annotations

from typing import Any, Literal, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.contracts import Backbone, Clock, Method, Step, Task
from ..core.errors import MarrowError
from ..core.loader import Data
from ..data.balance import Oversampled, Turned, counts
from ..data.views import Augment

BALANCES = ("oversample", "weights", None)


class OLConvNet(Method):
    """One of the two stages of hybrid OLConvNet (Tripathi and Singh, ACM TOMM 2020): the convolutional net on its labels,
    then, with the net `frozen`, a perceptron on its features joined with measures of the object (`hybrid_classify`).

    balance: "oversample" shows each class as often as the largest, the copies turned and mirrored at random like every
    patch; "weights" weighs the loss of a class by how rare it is; None leaves the classes as they are. Only training data
    is balanced. frozen: the task's backbones stay as they are, in eval mode and without gradient.

    It owns its loop because how often a class occurs must be known before the first step.

    Deviation: patches are resized to the net's input by the loader, not padded.
    """

    needs = {"task": {"logits"}}

    def __init__(
        self, task: Task, *, balance: Literal["oversample", "weights"] | None = "oversample", frozen: bool = False
    ):
        super().__init__()
        if balance not in BALANCES:
            raise MarrowError(
                f"unknown way '{balance}'; known: oversample, weights, or null", where="olconvnet.balance"
            )
        self.task, self.balance = task, balance
        self.kept = [m for m in task.modules() if isinstance(m, Backbone)] if frozen else []
        for backbone in self.kept:
            backbone.requires_grad_(False).eval()
        self.view = Turned(Augment(task.input.size, crop=None, flip=True))
        self.register_buffer("weight", None, persistent=False)  # of each class, made from the data by `fit`

    def train(self, mode: bool = True) -> "OLConvNet":
        super().train(mode)
        for backbone in self.kept:
            backbone.eval()
        return self

    def fit(self, engine: Any, data: Data) -> None:
        source = data.streams["train"]
        if self.balance == "oversample":
            data = Data({"train": Oversampled(source, "data.train")}, data.val)
        elif self.balance == "weights":
            self.weight = class_weights(counts(source, "data.train"))
        engine.train(self, data)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        out = self.task(batch)
        if self.weight is None:
            return Step(self.task.losses(out, batch))
        label = batch["label"]
        loss = F.cross_entropy(out["logits"].float(), label, reduction="none")
        return Step({"weighted_cross_entropy": (self.weight[label] * loss).mean()})

    def views(self) -> Turned:
        return self.view

    def product(self) -> Task:
        return self.task


def class_weights(counts: list[int]) -> Tensor:
    """n / (classes * n_c): every class has the same sum of weights, and the mean over examples is 1."""
    found = torch.tensor(counts, dtype=torch.float32)
    return found.sum() / (len(counts) * found)
