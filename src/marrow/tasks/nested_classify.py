"""One label an image, told by as few or as many features as there is room for."""

from __future__ import annotations

from typing import Any, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError
from ..nn.nested import NestedHeads, TiedHead, check_sizes, nested_sizes
from .classify import Classify, ClassifyMetric


class NestedClassify(Task):
    """Linear classifiers on the first m pooled features for each of `sizes`; what `matryoshka` makes of `classify`.

    sizes: ascending; by default the backbone's width, halved down to about 8. tied: the classifiers are the first columns
    of one. It starts from the backbone's classifier as `classify` does. Its losses add up over the sizes.
    """

    fields = Classify.fields
    gives = frozenset({"logits", "nested"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: int,
        sizes: tuple[int, ...] = (),
        tied: bool = False,
        label_smoothing: float = 0.0,
    ):
        super().__init__()
        start = Classify(backbone, classes=classes, label_smoothing=label_smoothing)
        self.backbone, self.classes, self.tied, self.label_smoothing = backbone, classes, tied, label_smoothing
        self.sizes = tuple(sizes) or nested_sizes(backbone.dim)
        check_sizes(self.sizes, backbone.dim, "nested_classify.sizes")
        self.head = (TiedHead if tied else NestedHeads)(self.sizes, classes)
        self.head.start_from(start.head)
        self.labels = start.labels

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"logits": (B, classes) of the largest size, "logits_8": those of size 8, ...}"""
        *smaller, largest = self.head(self.backbone(batch["image"]).pooled)
        return {"logits": largest} | {f"logits_{m}": said for m, said in zip(self.sizes, smaller)}

    def at(self, out: Mapping[str, Tensor], size: int) -> Tensor:
        """The logits (B, classes) of one of its sizes."""
        return out["logits" if size == self.sizes[-1] else f"logits_{size}"]

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of each size that has answered: "cross_entropy" the largest, "cross_entropy_8" size 8, ..."""
        if "label" not in batch:
            raise MarrowError("the batch has no 'label'; this source is unlabelled, and nested_classify learns with labels",
                              where="nested_classify")  # fmt: skip
        return {name.replace("logits", "cross_entropy"):
                F.cross_entropy(said.float(), batch["label"], label_smoothing=self.label_smoothing)
                for name, said in out.items()}  # fmt: skip

    # Static, as for `classify`: an exported file is judged by the same code.
    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """As `classify` by the largest size, and the most probable class (B,) of the others as "label_8", ..."""
        others = {name.replace("logits", "label"): said.argmax(-1) for name, said in out.items() if name != "logits"}
        return Classify.decode(out, batch) | others

    @staticmethod
    def metric() -> NestedMetric:
        return NestedMetric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (logits, logits_8, ...)"""
        return _ImageToLogits(self)


class NestedMetric(ClassifyMetric):
    """Beside top1 and balanced_top1 of the largest size: top1_8 of size 8, and so on."""

    def __init__(self) -> None:
        super().__init__()
        self.right: dict[str, int] = {}

    def update(self, decoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        super().update(decoded, batch)
        for name, said in decoded.items():
            if name.startswith("label_"):
                self.right[name] = self.right.get(name, 0) + int((said == batch["label"].to(said.device)).sum())

    def compute(self) -> list[dict]:
        rows = super().compute()
        n = rows[0]["n"]
        return rows + [{"metric": name.replace("label", "top1"), "value": right / n, "n": n}
                       for name, right in self.right.items()]  # fmt: skip


class _ImageToLogits(nn.Module):
    def __init__(self, task: NestedClassify):
        super().__init__()
        self.task = task

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.task({"image": image}).values())
