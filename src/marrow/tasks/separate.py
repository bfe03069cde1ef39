"""Two codes of a picture: what is common to all pictures, and what is salient in some."""

from __future__ import annotations

from typing import Any, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError
from .embed import EmbedMetric

CODES = ("common", "salient")


class Separate(Task):
    """The pooled features of two backbones, as `sepclr` trains them; it adds nothing to train.

    `{stage: n, part: common}` and `part: salient` are the backbones themselves.
    """

    fields = {"image": "(B, 3, H, W) uint8, or float in [0, 1]", "label": "(B,) int64, only to measure"}
    gives = frozenset(CODES)
    exempt = {"losses": "it puts no layer on its backbones, which a method trains by itself"}

    def __init__(self, common: Backbone, salient: Backbone):
        super().__init__()
        if common.input.size != salient.input.size or common.input.channels != salient.input.channels:
            raise MarrowError(f"the backbones see {common.input.size} x {common.input.channels} and {salient.input.size} x "
                              f"{salient.input.channels}; they share every picture", where="separate.salient")  # fmt: skip
        self.common, self.salient = common, salient

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"common": (B, D_c), "salient": (B, D_s)}"""
        return {name: getattr(self, name)(batch["image"]).pooled for name in CODES}

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        raise MarrowError("two codes have no loss of their own", where="separate",
                          hint="Train the backbones by sepclr.")  # fmt: skip

    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The common code at length 1; the salient one as it is, since its distance from 0 counts."""
        return {"common": F.normalize(out["common"].float(), dim=-1), "salient": out["salient"].float()}

    @staticmethod
    def metric() -> SeparateMetric:
        return SeparateMetric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (common, salient)"""
        return _ImageToCodes(self)


class SeparateMetric:
    """Rows common_recall_at_1 and salient_recall_at_1: how often the image most alike in a code has the same label."""

    def __init__(self) -> None:
        self.codes = {name: EmbedMetric() for name in CODES}

    def update(self, decoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        for name, metric in self.codes.items():
            metric.update({"embedding": F.normalize(decoded[name], dim=-1)}, batch)

    def compute(self) -> list[dict]:
        return [
            {**row, "metric": f"{name}_{row['metric']}"} for name, each in self.codes.items() for row in each.compute()
        ]


class _ImageToCodes(nn.Module):
    def __init__(self, task: Separate):
        super().__init__()
        self.task = task

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        out = self.task({"image": image})
        return out["common"], out["salient"]
