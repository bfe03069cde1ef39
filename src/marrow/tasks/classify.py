"""One label an image."""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError


class Classify(Task):
    """A linear classifier on the pooled features, trained by cross-entropy.

    A classifier that came with the backbone's pre-trained weights is the start when it has as many classes: it belongs
    to those features, and an untrained head would throw away what it knows. The names of its classes come along.
    """

    fields = {"image": "(B, 3, H, W) uint8, or float in [0, 1]", "label": "(B,) int64"}
    gives = frozenset({"logits"})

    def __init__(self, backbone: Backbone, *, classes: int, label_smoothing: float = 0.0):
        super().__init__()
        if classes < 2:
            raise MarrowError(f"{classes} classes cannot be told apart; 2 or more are needed", where="classify.classes")
        if not 0.0 <= label_smoothing < 1.0:
            raise MarrowError(f"{label_smoothing} is outside 0..1", where="classify.label_smoothing")
        self.backbone, self.classes, self.label_smoothing = backbone, classes, label_smoothing
        self.head = nn.Linear(backbone.dim, classes)
        if backbone.classifier is not None and backbone.classifier[0].shape == self.head.weight.shape:
            weight, bias = backbone.classifier
            self.labels = backbone.classifier_labels
            with torch.no_grad():
                self.head.weight.copy_(weight)
                self.head.bias.zero_() if bias is None else self.head.bias.copy_(bias)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"logits": (B, classes)}"""
        return {"logits": self.head(self.backbone(batch["image"]).pooled)}

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"cross_entropy": cross_entropy(out, batch, self.label_smoothing)}

    # Neither decode nor metric needs the network, so that an exported file is judged by the same code.
    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"label": (B,) the most probable class, "probability": (B, classes)}; names are in `labels`."""
        probability = out["logits"].float().softmax(-1)
        return {"label": probability.argmax(-1), "probability": probability}

    @staticmethod
    def metric() -> ClassifyMetric:
        return ClassifyMetric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (logits,)"""
        return ImageToLogits(self)


class ClassifyMetric:
    """Counts pairs of (label, prediction): rows top1 and balanced_top1, the mean recall over the classes present.

    `confusion` (C, C): how often an example of class i was called j; None before the first update.
    """

    def __init__(self) -> None:
        self.confusion: Tensor | None = None

    def update(self, decoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        label, predicted = _label(batch), decoded["label"]
        classes = decoded["probability"].shape[-1]
        if len(label) and not 0 <= int(label.min()) <= int(label.max()) < classes:
            raise MarrowError(f"labels run from {int(label.min())} to {int(label.max())}, "
                              f"the model knows classes 0 to {classes - 1}", where="label")  # fmt: skip
        pairs = torch.bincount(label * classes + predicted.to(label.device), minlength=classes**2)
        pairs = pairs.view(classes, classes)
        self.confusion = pairs if self.confusion is None else self.confusion + pairs

    def compute(self) -> list[dict]:
        if self.confusion is None or not (n := int(self.confusion.sum())):
            raise MarrowError("there is no labelled example to measure on", where="classify")
        right, total = self.confusion.diag(), self.confusion.sum(1)
        present = total > 0
        recall = right[present].double() / total[present]
        return [
            {"metric": "top1", "value": int(right.sum()) / n, "n": n},
            {"metric": "balanced_top1", "value": float(recall.mean()), "n": n},
        ]


class ImageToLogits(nn.Module):
    """The graph of a task that answers a picture with logits."""

    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, image: Tensor) -> tuple[Tensor]:
        return (self.task({"image": image})["logits"],)


def cross_entropy(out: Mapping[str, Tensor], batch: Mapping[str, Any], label_smoothing: float) -> Tensor:
    return F.cross_entropy(out["logits"].float(), _label(batch), label_smoothing=label_smoothing)


def _label(batch: Mapping[str, Any]) -> Tensor:
    if "label" not in batch:
        raise MarrowError("the batch has no 'label'; this source is unlabelled, and classify learns and measures with "
                          "labels", where="classify")  # fmt: skip
    return batch["label"]
