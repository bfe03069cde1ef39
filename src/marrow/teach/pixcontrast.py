"""PixContrast: each place of a picture is to find itself in another view, among that view's other places.

Xie et al., "Propagate Yourself: Exploring Pixel-Level Consistency for Unsupervised Visual Representation Learning", CVPR
2021 (sec. 3.1). It was not released with `pixpro`.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..core.wrappers import EMA
from ..data.crop_views import CropViews
from ..nn.dense_encoder import DenseEncoder, check_views, likeness
from ..nn.momentum import momentum_at
from ..nn.pixel_pairs import cosines, positive_pairs


def pixel_nce(a: Tensor, b: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """-log of the share that its positive places of b have of all places of b, for each place of a that has some (eq. 2).

    a, b: (B, C, h, w) of two views, compared as exp(cosine / temperature); positive: (B, N_a, N_b) bool. The mean over a
    picture's places, then over pictures; one whose views share no place counts 0.
    """
    logits = cosines(a, b) / temperature
    least = torch.finfo(logits.dtype).min
    lost = logits.logsumexp(2) - logits.masked_fill(~positive, least).logsumexp(2)
    shared = positive.any(2)
    return (lost.where(shared, 0.0).sum(1) / shared.sum(1).clamp_min(1)).mean()


class PixContrast(Method):
    """InfoNCE between the places of two views' maps, one of the net, one of its momentum copy, both directions (eq. 2).

    Negatives are the other places of the same picture's other view, none of other pictures. Arguments as of `pixpro`.

    Deviations: the temperature of 0.3 and the order of the means are from the text, there is no released code.
    """

    reads_labels = False
    needs = {"backbone": {"maps"}}
    tiny = {"backbone": "vit_tiny_patch16_224"}

    def __init__(
        self,
        backbone: Backbone,
        *,
        stage: int = -1,
        hidden: int = 4096,
        out: int = 256,
        temperature: float = 0.3,
        pos_ratio: float = 0.7,
        momentum: float = 0.99,
        crop: tuple[float, float] = (0.08, 1.0),
        flip: bool = True,
    ):
        super().__init__()
        if temperature <= 0 or pos_ratio <= 0:
            raise MarrowError(f"{min(temperature, pos_ratio)} is not above 0",
                              where=f"pixcontrast.{'temperature' if temperature <= 0 else 'pos_ratio'}")  # fmt: skip
        if not 0 <= momentum < 1:
            raise MarrowError(f"a momentum of {momentum} is outside 0..1", where="pixcontrast.momentum")
        self.online = DenseEncoder(backbone, stage, hidden, out, "pixcontrast", pixels=True, instance=False)
        self.copy = EMA(self.online)
        self.temperature, self.pos_ratio, self.momentum = temperature, pos_ratio, momentum
        self.view = CropViews(backbone.input.size, crop=crop, flip=flip)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        if not clock.step:
            check_views(batch, "pixcontrast")
        one, two = self.online(batch["view_1"]), self.online(batch["view_2"])
        with torch.no_grad():
            aim_one, aim_two = self.copy(batch["view_1"]), self.copy(batch["view_2"])
        size = tuple(one.pixels.shape[-2:])
        with torch.autocast(one.map.device.type, enabled=False):
            positive = positive_pairs(batch["box_1"], batch["box_2"], size, size, self.pos_ratio)
            loss = (pixel_nce(one.pixels, aim_two.pixels, positive, self.temperature)
                    + pixel_nce(two.pixels, aim_one.pixels, positive.mT, self.temperature)) / 2  # fmt: skip
        return Step({"pixels": loss}, {"likeness": likeness(one.map)})

    def after_step(self, clock: Clock) -> None:
        self.copy.update(self.online, momentum_at(clock.progress, self.momentum))

    def views(self) -> CropViews:
        return self.view

    def product(self) -> Backbone:
        return self.online.backbone
