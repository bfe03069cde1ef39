"""How much of each dye is in a pixel of a stained section."""

from __future__ import annotations

import numpy as np

from ..core.errors import MarrowError


def haematoxylin_eosin(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W, 2) optical densities of haematoxylin and eosin (Ruifrok and Johnston, 2001)."""
    from skimage.color import rgb2hed

    return rgb2hed(image)[..., :2]


def check_coloured(image: np.ndarray, where: str) -> None:
    """A grey picture says nothing about dyes; one of a single colour says nothing at all, and passes."""
    if image.min() < image.max() and (image == image[..., :1]).all():
        raise MarrowError("this image is grey, and the dyes haematoxylin and eosin can only be told apart in colour",
                          where=where)  # fmt: skip
