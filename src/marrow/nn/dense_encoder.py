"""A backbone's map with small nets on top, as methods that compare places of two views train it."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from ..core.contracts import Backbone
from ..core.errors import MarrowError
from .map_channels import map_shape
from .projection import check_widths, projection
from .reached import freeze_behind_map

FINEST = 14  # places a side at most; all pairs of finer maps would not fit into memory


class Encoded(NamedTuple):
    map: Tensor  # (B, C, h, w)
    pixels: Tensor | None  # (B, out, h, w)
    whole: Tensor | None  # (B, out)


class DenseEncoder(nn.Module):
    """The map of a stage: projected at every place with `pixels`, its mean over the places with `instance`.

    Maps of more than 14 places a side are averaged down to that. What lies behind the map stays as it is, statistics of its
    norms included.
    """

    def __init__(
        self, backbone: Backbone, stage: int, hidden: int, out: int, where: str, *, pixels: bool, instance: bool
    ):
        super().__init__()
        check_widths(where, hidden=hidden, out=out)
        if not -backbone.stages <= stage < backbone.stages:
            raise MarrowError(f"there is no stage {stage}; the backbone has 0 to {backbone.stages - 1}",
                              where=f"{where}.stage")  # fmt: skip
        channels, height, width = map_shape(backbone, stage)
        if height * width == 1:
            name = backbone.spec.get("source", "the backbone").removeprefix("timm:")
            raise MarrowError(f"{where} needs a map of more than one place; stage {stage} of {name} is 1 x 1 for images of "
                              f"{backbone.input.size[0]} x {backbone.input.size[1]}", where=f"{where}.stage",
                              hint="Take larger images or an earlier stage.")  # fmt: skip
        behind = {name.rpartition(".")[0] for name in freeze_behind_map(backbone, stage)}
        self.still = [m for m in map(backbone.get_submodule, sorted(behind)) if isinstance(m, _BatchNorm)]
        self.backbone, self.stage = backbone, stage
        self.pixels = projection(channels, hidden, out, places=True) if pixels else None
        self.whole = projection(channels, hidden, out) if instance else None

    def train(self, mode: bool = True) -> "DenseEncoder":
        super().train(mode)
        for norm in self.still:
            norm.eval()
        return self

    def map(self, image: Tensor) -> Tensor:
        """(B, C, h, w)"""
        [found] = self.backbone(image, maps=(self.stage,)).maps
        size = [min(FINEST, side) for side in found.shape[-2:]]
        return found if list(found.shape[-2:]) == size else F.adaptive_avg_pool2d(found, size)

    def forward(self, image: Tensor) -> Encoded:
        found = self.map(image)
        return Encoded(
            found,
            None if self.pixels is None else self.pixels(found),
            None if self.whole is None else self.whole(found.mean((2, 3))),
        )


def check_views(batch: Mapping[str, Any], where: str) -> None:
    """Raise unless the batch holds two views of each image and their boxes, as `CropViews` makes them."""
    if missing := [name for name in ("view_1", "view_2", "box_1", "box_2") if name not in batch]:
        raise MarrowError(f"the batch has no '{missing[0]}'; two cuts of each image are needed and where they lie in it",
                          where=where, hint="The method's own views make them.")  # fmt: skip
    if len(batch["view_1"]) < 2:
        raise MarrowError(
            "a batch of one image has no statistics to normalise by; 2 or more are needed", where="data.batch"
        )
    if any(bool(((box < -0.5) | (box > 1.5)).any()) for box in (batch["box_1"], batch["box_2"])):
        raise MarrowError("the boxes of the views reach beyond [0, 1], as if they were in pixels; shares of the picture are "
                          "needed", where=where)  # fmt: skip


@torch.no_grad()
def likeness(x: Tensor) -> Tensor:
    """The mean cosine of different pictures' maps (B, C, H, W), each averaged: near 1 the encoder has collapsed."""
    unit = F.normalize(x.float().mean((2, 3)), dim=1)
    count = len(unit)
    return (unit.sum(0).square().sum() - count) / (count * (count - 1))
