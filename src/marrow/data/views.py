"""Random views of a training image, on uint8 tensors."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from ..core.errors import MarrowError
from ..core.photo import Box, Photo, PhotoView, divided, scale_for
from ..core.preprocess import plain
from ..core.source import VOID

__all__ = ["Augment", "plain"]

RATIOS = 3 / 4, 4 / 3  # aspect ratios of a random crop, as in Inception's training
TRIES = 10


@dataclasses.dataclass(frozen=True)
class Augment(PhotoView):
    """One random view of an example: a cut resized to `size`, mirrored half of the time; a `mask` moves along.

    crop: shares of the image's area between which a cut with aspect ratio 3/4 to 4/3 is drawn. None: the image, scaled
    until it covers `size`, with `pad` black pixels on each side, is cut at a random place (the usual view for CIFAR).
    All randomness comes from torch's global generator, which the loader seeds for each example. A cut is chosen on the
    whole picture; a large photo is then decoded no larger than it needs, which never makes the cut smaller than `size`.
    """

    size: tuple[int, int]
    crop: tuple[float, float] | None = (0.08, 1.0)
    flip: bool = True
    pad: int = 0

    def __post_init__(self) -> None:
        if self.crop is not None and not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise MarrowError(f"{self.crop} is not a range of shares within 0..1", where="Augment.crop")
        if self.crop is not None and self.pad:
            raise MarrowError("padding goes with crop=None", where="Augment.pad")

    def __call__(self, example: dict) -> dict:
        image, scale = example["image"], 1
        height, width = image.shape[-2:]
        mirrored = self.flip and torch.rand(()).item() < 0.5
        box = random_box(height, width, self.crop) if self.crop else (0, 0, height, width)
        place = torch.rand(2).tolist() if self.crop is None else [0.0, 0.0]
        target = self.size if self.crop else self._covering(height, width)
        if isinstance(image, Photo):
            scale = scale_for(box, target)
            image, box = image.reduced(scale), divided(box, scale)
        image = self._placed(resize(cut(image, *box), target), place)
        view = {**example, "image": image.flip(-1) if mirrored else image}
        if "mask" in example:
            mask = cut(example["mask"][None], *(scale * edge for edge in box))
            mask = self._placed(resize(mask, target), place)[0]
            view["mask"] = mask.flip(-1) if mirrored else mask
        return view

    def _covering(self, h: int, w: int) -> tuple[int, int]:
        """The smallest size of this aspect ratio that covers `size`."""
        height, width = self.size
        if height * w >= width * h:
            return height, max(width, height * w // h)
        return max(height, width * h // w), width

    def _placed(self, x: Tensor, place: list[float]) -> Tensor:
        height, width = self.size
        if self.pad:
            x = pad(x, (self.pad,) * 4, value=VOID if x.dtype == torch.int64 else 0)
        top = int(place[0] * (x.shape[-2] - height + 1))
        left = int(place[1] * (x.shape[-1] - width + 1))
        return cut(x, top, left, height, width)


def random_box(height: int, width: int, shares: tuple[float, float], ratios: tuple[float, float] = RATIOS) -> Box:
    """(top, left, height, width) of a cut; the whole centre if no draw fits into an odd aspect ratio."""
    (low, high), (tall, wide) = shares, ratios
    for _ in range(TRIES):
        a, r, y, x = torch.rand(4).tolist()
        area = height * width * (low + a * (high - low))
        ratio = math.exp(math.log(tall) + r * (math.log(wide) - math.log(tall)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    w = min(width, round(height * wide))
    h = min(height, round(width / tall))
    return (height - h) // 2, (width - w) // 2, h, w


def cut(x: Tensor, top: int, left: int, height: int, width: int) -> Tensor:
    return x[..., top : top + height, left : left + width]


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) to a size: class ids (int64) by nearest neighbour, pictures bilinear with antialiasing."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    if x.dtype == torch.int64:
        return interpolate(x[None].float(), size, mode="nearest-exact")[0].long()
    return interpolate(x[None], size, mode="bilinear", antialias=True)[0]
