"""One label a picture of one object, from a backbone's features and from measures of the object."""

from __future__ import annotations

from typing import Any, Literal, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError
from ..nn.running_scale import RunningScale
from .classify import Classify, ClassifyMetric

MODES = ("hybrid", "deep", "object")


class HybridClassify(Task):
    """A multi-layer perceptron on joined features, as in Tripathi and Singh, OLConvNet, ACM TOMM 2020.

    mode: "hybrid" joins the backbone's features with the measures in the field `objects`; "deep" and "object" use one of
    the two. Each block is z-scored by statistics of the training data. objects: how many measures there are. hidden: units
    of the perceptron's one hidden layer.
    """

    fields = {
        "image": "(B, 3, H, W) uint8, or float in [0, 1]",
        "objects": "(B, F) float, NaN = undefined",
        "label": "(B,) int64",
    }
    gives = frozenset({"logits"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: int,
        mode: Literal["hybrid", "deep", "object"] = "hybrid",
        objects: int = 52,
        hidden: int = 100,
    ):
        super().__init__()
        if classes < 2:
            raise MarrowError(f"{classes} classes cannot be told apart; 2 or more are needed",
                              where="hybrid_classify.classes")  # fmt: skip
        if mode not in MODES:
            raise MarrowError(f"unknown mode '{mode}'; known: {', '.join(MODES)}", where="hybrid_classify.mode")
        for name, value in (("objects", objects), ("hidden", hidden)):
            if value < 1:
                raise MarrowError(f"{value} is too small; 1 or more fits", where=f"hybrid_classify.{name}")
        self.backbone, self.classes, self.mode, self.objects, self.hidden = backbone, classes, mode, objects, hidden
        self.deep_scale = nn.BatchNorm1d(backbone.dim, affine=False) if mode != "object" else None
        self.object_scale = RunningScale(objects) if mode != "deep" else None
        width = (backbone.dim if self.deep_scale else 0) + (2 * objects if self.object_scale else 0)
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, classes))

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"logits": (B, classes)}"""
        measures = _measures(batch, self.objects) if self.object_scale is not None else None
        blocks = []
        if self.deep_scale is not None:
            blocks.append(self.deep_scale(self.backbone(batch["image"]).pooled.float()))
        if self.object_scale is not None:
            blocks.append(self.object_scale(measures))
        return {"logits": self.head(torch.cat(blocks, 1))}

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        if "label" not in batch:
            raise MarrowError("the batch has no 'label'; this source is unlabelled, and hybrid_classify learns with labels",
                              where="hybrid_classify")  # fmt: skip
        return {"cross_entropy": F.cross_entropy(out["logits"].float(), batch["label"])}

    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"label": (B,) the most probable class, "probability": (B, classes)}; names are in `labels`."""
        return Classify.decode(out, batch)

    @staticmethod
    def metric() -> HybridMetric:
        return HybridMetric()

    def example(self, count: int = 1) -> dict[str, Tensor]:
        given = super().example(count)
        return given if self.mode == "deep" else {**given, "objects": torch.zeros(count, self.objects)}

    def exported(self) -> nn.Module:
        """image (B, 3, H, W), and objects (B, F) but in mode "deep" -> (logits,)"""
        return _ToLogits(self)


class HybridMetric(ClassifyMetric):
    """Beside top1 and balanced_top1: weighted_f1, macro_f1, and macro_auc, one class against the rest.

    Classes without an example on this data do not count for the two means over classes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.label: list[Tensor] = []
        self.probability: list[Tensor] = []

    def update(self, decoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        super().update(decoded, batch)
        self.label.append(batch["label"].cpu())
        self.probability.append(decoded["probability"].cpu())

    def compute(self) -> list[dict]:
        from sklearn.metrics import f1_score, roc_auc_score

        rows = super().compute()
        label, probability = torch.cat(self.label).numpy(), torch.cat(self.probability).double().numpy()
        n, present, predicted = len(label), sorted(set(label.tolist())), probability.argmax(1)
        for average in ("weighted", "macro"):
            value = f1_score(label, predicted, labels=present, average=average, zero_division=0.0)
            rows.append({"metric": f"{average}_f1", "value": float(value), "n": n})
        if len(present) < 2:
            return [*rows, {"metric": "macro_auc", "value": None, "n": n, "reason": "all examples are of one class"}]
        areas = [roc_auc_score(label == k, probability[:, k]) for k in present]
        return [*rows, {"metric": "macro_auc", "value": float(sum(areas) / len(areas)), "n": n}]


class _ToLogits(nn.Module):
    def __init__(self, task: HybridClassify):
        super().__init__()
        self.task = task

    def forward(self, image: Tensor, objects: Tensor | None = None) -> tuple[Tensor]:
        return (self.task({"image": image, "objects": objects})["logits"],)


def _measures(batch: Mapping[str, Any], count: int) -> Tensor:
    if "objects" not in batch:
        raise MarrowError("the batch has no 'objects'", where="hybrid_classify",
                          hint="Give 'objects: CLASS ID' with a source that has masks, or 'objects: otsu'.")  # fmt: skip
    found: Tensor = batch["objects"]
    if found.ndim != 2 or found.shape[1] != count:
        raise MarrowError(f"'objects' has shape {tuple(found.shape)}, the task reads {count} measures of each object",
                          where="hybrid_classify")  # fmt: skip
    return found
