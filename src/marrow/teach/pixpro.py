"""PixPro: each place of a picture is to look alike in two views, so a map is trained without labels.

Xie et al., "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning", CVPR
2021. `pixcontrast` is the paper's contrastive sibling.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..core.wrappers import EMA
from ..data.crop_views import CropViews
from ..nn.dense_encoder import DenseEncoder, check_views, likeness
from ..nn.momentum import momentum_at
from ..nn.pixel_pairs import cosines, positive_pairs
from ..nn.projection import projection


def propagate(x: Tensor, value: Tensor, gamma: float) -> Tensor:
    """Sum over places j of max(cos(x_i, x_j), 0)^gamma times the unit vector of value_j; maps (B, C, h, w) (sec. 3.2).

    The released code makes each value a unit vector, which the paper's equation does not say, and does not divide by the
    sum of the similarities: the loss is a cosine.
    """
    exact = value if value.dtype == torch.float64 else value.float()
    alike = cosines(x, x).clamp_min(0.0)
    alike = (alike + 1e-6 if gamma < 1 else alike) ** gamma  # below 1 the slope at 0 has no end
    return torch.einsum("bij,bcj->bci", alike, F.normalize(exact.flatten(2), dim=1)).unflatten(2, x.shape[-2:])


def consistency(y: Tensor, x: Tensor, positive: Tensor) -> Tensor:
    """-2 times the mean cosine of the positive pairs of places of each picture, and the mean over pictures (eq. 3).

    y, x: (B, C, h, w) of two views; positive: (B, N_y, N_x) bool. A picture whose views share no place counts 0.
    """
    positive = positive.to(torch.promote_types(y.dtype, torch.float32))
    found = (cosines(y, x) * positive).sum((1, 2)) / (positive.sum((1, 2)) + 1e-6)
    return -2.0 * found.mean()


def byol(y: Tensor, x: Tensor) -> Tensor:
    """-2 times the mean cosine of rows (B, D)."""
    return -2.0 * F.cosine_similarity(y.float(), x.float(), dim=1).mean()


class Propagation(nn.Module):
    """The pixel-propagation module: each place takes on what similar places say (sec. 3.2).

    layers: 1x1 convolutions of the values, BatchNorm and ReLU between them; 0: the values are the places themselves.
    """

    def __init__(self, channels: int, gamma: float, layers: int):
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(layers - 1):
            parts += [nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
        self.value = nn.Sequential(*parts, *([nn.Conv2d(channels, channels, 1)] if layers else []))
        self.gamma = gamma

    def forward(self, x: Tensor) -> Tensor:
        value = self.value(x)
        with torch.autocast(x.device.type, enabled=False):
            return propagate(x, value, self.gamma)


class PixPro(Method):
    """Two cuts of an image; what the net says about a place in one, smoothed over similar places, is to be what its momentum
    copy says about the same place in the other (sec. 3).

    Places are positive pairs where their centres are closer than `pos_ratio` cell diagonals. The loss is a negative cosine
    over both directions, -4 at its least. `instance_weight` adds BYOL's loss on the mean of the map (the paper's 1.0 for
    PixPro*); with a `pixel_weight` of 0 that is all there is.

    stage: of the map that is trained; what lies behind it (later stages, a last norm, a neck) is not, and stays as it is.
    hidden, out: widths of the projections, dropped afterwards. gamma, layers: of the propagation. momentum: of the copy at
    the start, 1 at the end. Logs: `likeness`, the mean cosine of different images' maps; near 1 the net has collapsed.

    Deviations: the copy's momentum is that of the step before, one step behind the released code; the width of the blur
    goes with the size of the view; maps finer than 14 places a side are averaged down to 14 for the loss.
    """

    reads_labels = False
    needs = {"backbone": {"maps"}}
    tiny = {"backbone": "vit_tiny_patch16_224"}  # the last map of a small convolutional net is a single place at 32 px

    def __init__(
        self,
        backbone: Backbone,
        *,
        stage: int = -1,
        hidden: int = 4096,
        out: int = 256,
        gamma: float = 2.0,
        layers: int = 1,
        pos_ratio: float = 0.7,
        momentum: float = 0.99,
        pixel_weight: float = 1.0,
        instance_weight: float = 0.0,
        crop: tuple[float, float] = (0.08, 1.0),
        flip: bool = True,
    ):
        super().__init__()
        if min(pixel_weight, instance_weight) < 0 or not pixel_weight + instance_weight:
            raise MarrowError(f"weights of {pixel_weight} and {instance_weight} leave nothing to learn, or turn a loss around",
                              where="pixpro.pixel_weight")  # fmt: skip
        if gamma <= 0 or pos_ratio <= 0:
            raise MarrowError(
                f"{min(gamma, pos_ratio)} is not above 0", where=f"pixpro.{'gamma' if gamma <= 0 else 'pos_ratio'}"
            )
        if not 0 <= momentum < 1:
            raise MarrowError(f"a momentum of {momentum} is outside 0..1", where="pixpro.momentum")
        if layers < 0:
            raise MarrowError(f"{layers} layers: 0 or more are needed", where="pixpro.layers")
        self.online = DenseEncoder(
            backbone, stage, hidden, out, "pixpro", pixels=pixel_weight > 0, instance=instance_weight > 0
        )
        self.copy = EMA(self.online)
        if pixel_weight:
            self.propagation = Propagation(out, gamma, layers)
        if instance_weight:
            self.prediction = projection(out, hidden, out)
        self.pixel_weight, self.instance_weight = pixel_weight, instance_weight
        self.pos_ratio, self.momentum = pos_ratio, momentum
        self.view = CropViews(backbone.input.size, crop=crop, flip=flip)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        if not clock.step:  # on an accelerator a look at the boxes waits for all that it has still to do
            check_views(batch, "pixpro")
        one, two = self.online(batch["view_1"]), self.online(batch["view_2"])
        with torch.no_grad():
            aim_one, aim_two = self.copy(batch["view_1"]), self.copy(batch["view_2"])
        losses = {}
        if self.pixel_weight:
            said = [self.propagation(view.pixels) for view in (one, two)]
            size = tuple(said[0].shape[-2:])
            with torch.autocast(said[0].device.type, enabled=False):
                positive = positive_pairs(batch["box_1"], batch["box_2"], size, size, self.pos_ratio)
                both = consistency(said[0], aim_two.pixels, positive) + consistency(
                    said[1], aim_one.pixels, positive.mT
                )
            losses["pixels"] = self.pixel_weight * both
        if self.instance_weight:
            both = byol(self.prediction(one.whole), aim_two.whole) + byol(self.prediction(two.whole), aim_one.whole)
            losses["instance"] = self.instance_weight * both
        return Step(losses, {"likeness": likeness(one.map)})

    def after_step(self, clock: Clock) -> None:
        self.copy.update(self.online, momentum_at(clock.progress, self.momentum))

    def views(self) -> CropViews:
        return self.view

    def product(self) -> Backbone:
        return self.online.backbone
