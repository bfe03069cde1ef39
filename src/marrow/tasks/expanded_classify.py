"""One label an image, from features that are made wider first."""

from __future__ import annotations

from typing import Any, Mapping

from torch import Tensor, nn

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError
from .classify import Classify, ClassifyMetric, ImageToLogits, cross_entropy


class ExpandedClassify(Task):
    """`classify` behind LayerNorm, a linear layer to `width` and GELU: the head of the released TinyMIM* (ViT-T).

    Its fine-tuning was not released. The net has a second prefix token (`reg_tokens: 1` of timm's ViTs) and a supervised
    teacher, so `ssld` with this task as the student comes closest.
    """

    fields = {"image": "(B, 3, H, W) uint8, or float in [0, 1]", "label": "(B,) int64"}
    gives = frozenset({"logits"})

    def __init__(self, backbone: Backbone, *, classes: int, width: int = 1280, label_smoothing: float = 0.0):
        super().__init__()
        if width < 1 or classes < 2:
            raise MarrowError(f"{classes} classes behind {width} features; 2 or more classes and 1 or more features fit",
                              where="expanded_classify.width" if width < 1 else "expanded_classify.classes")  # fmt: skip
        if not 0.0 <= label_smoothing < 1.0:
            raise MarrowError(f"{label_smoothing} is outside 0..1", where="expanded_classify.label_smoothing")
        self.backbone, self.classes = backbone, classes
        self.width, self.label_smoothing = width, label_smoothing
        self.expansion = nn.Sequential(nn.LayerNorm(backbone.dim), nn.Linear(backbone.dim, width), nn.GELU())
        self.head = nn.Linear(width, classes)

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"logits": (B, classes)}"""
        return {"logits": self.head(self.expansion(self.backbone(batch["image"]).pooled))}

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return {"cross_entropy": cross_entropy(out, batch, self.label_smoothing)}

    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        return Classify.decode(out, batch)

    @staticmethod
    def metric() -> ClassifyMetric:
        return Classify.metric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (logits,)"""
        return ImageToLogits(self)
