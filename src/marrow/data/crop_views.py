"""Two cuts of an image, and where each lies in it."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.photo import Box, Photo, PhotoView, divided, scale_for
from .colours import FIRST, SECOND, Colours
from .views import cut, random_box, resize


@dataclasses.dataclass(frozen=True)
class CropViews(PhotoView):
    """`view_1` and `view_2` (C, H, W) of an image, each cut, mirrored half of the time and coloured by itself.

    They take the place of `image` and `mask`.

    `box_1`, `box_2` (4,): x0, y0, x1, y1 of the cut in shares of the picture, its first pixel 0 and its last 1. In a
    mirrored view x0 is its left edge all the same, so x0 > x1. crop: as in `Augment`.
    """

    size: tuple[int, int]
    crop: tuple[float, float] = (0.08, 1.0)
    flip: bool = True
    first: Colours = FIRST
    second: Colours = SECOND

    def __post_init__(self) -> None:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise MarrowError(f"{self.crop} is not a range of shares within 0..1", where="CropViews.crop")

    def __call__(self, example: dict) -> dict:
        image = example["image"]
        views = {k: v for k, v in example.items() if k not in ("image", "mask")}
        for number, colours in ((1, self.first), (2, self.second)):
            box = random_box(image.shape[-2], image.shape[-1], self.crop)
            mirrored = self.flip and torch.rand(()).item() < 0.5
            shown = self._shown(image, box)
            views[f"view_{number}"] = colours(shown.flip(-1) if mirrored else shown)
            views[f"box_{number}"] = shares(box, image.shape[-2], image.shape[-1], mirrored)
        return views

    def _shown(self, image: Tensor | Photo, box: Box) -> Tensor:
        if isinstance(image, Photo):
            scale = scale_for(box, self.size)
            image, box = image.reduced(scale), divided(box, scale)
        return resize(cut(image, *box), self.size)


def shares(box: Box, height: int, width: int, mirrored: bool) -> Tensor:
    """(x0, y0, x1, y1) of a box in pixels (top, left, height, width)."""
    top, left, h, w = box
    across, down = max(width - 1, 1), max(height - 1, 1)
    x0, x1 = left / across, (left + w - 1) / across
    y0, y1 = top / down, (top + h - 1) / down
    return torch.tensor([x1, y0, x0, y1] if mirrored else [x0, y0, x1, y1])
