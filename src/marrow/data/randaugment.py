"""RandAugment: random operations of one strength on a training image."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

from ..core.errors import MarrowError
from ..core.photo import PhotoView
from .views import Augment

STRONGEST = 30  # a shear of 0.9, a rotation by 90 degrees


@dataclasses.dataclass(frozen=True)
class RandAugmented(PhotoView):
    """`layers` operations, each drawn anew and carried out half of the time, on what `view` shows (Cubuk et al., 2020).

    magnitude: of timm's operations, for which 10 is the nominal end of the scale; above it shears, shifts and rotations
    go on growing, as in TensorFlow's implementation, which ResNet-RS was trained with. torchvision's scale is another one.
    """

    view: Augment
    magnitude: int
    layers: int = 2

    def __post_init__(self) -> None:
        if not 0 < self.magnitude <= STRONGEST or self.layers < 1:
            raise MarrowError(f"magnitude {self.magnitude} is outside 1..{STRONGEST}", where="randaugment")

    def __call__(self, example: dict) -> dict:
        if "mask" in example:
            raise MarrowError("its operations move pixels, and a mask would not follow", where="randaugment")
        shown = self.view(example)
        return {**shown, "image": self.distorted(shown["image"])}

    def distorted(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8. The operations draw from `random` and numpy, which the loader seeds for each example."""
        height, width = image.shape[-2:]
        picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        distort = _operations(self.magnitude, self.layers, min(height, width))
        return torch.from_numpy(np.asarray(distort(picture)).copy()).permute(2, 0, 1)


@lru_cache(maxsize=8)
def _operations(magnitude: int, layers: int, side: int) -> Any:
    # Without a stated maximum timm would take any magnitude above 10 for 10.
    hparams = {"translate_const": int(side * 0.45), "img_mean": (124, 116, 104)}
    return rand_augment_transform(f"rand-m{magnitude}-n{layers}-mmax{max(magnitude, 10)}", hparams)
