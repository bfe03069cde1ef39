"""Where the nucleus is in a patch around a stained cell, when nobody drew it."""

from __future__ import annotations

import numpy as np

from .stains import haematoxylin_eosin


def nucleus(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (H, W) bool: the darkest in haematoxylin by Otsu's threshold, as one part without holes.

    Of several parts it is the one that has a pixel nearest to the centre. A patch of one colour has no nucleus.
    """
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    stain = haematoxylin_eosin(image)[..., 0]
    if stain.max() == stain.min():
        return np.zeros(stain.shape, bool)
    parts, _ = ndimage.label(stain > threshold_otsu(stain), np.ones((3, 3)))
    rows, columns = np.indices(stain.shape)
    height, width = stain.shape
    away = (rows - (height - 1) / 2) ** 2 + (columns - (width - 1) / 2) ** 2
    centre = parts.flat[np.where(parts > 0, away, np.inf).argmin()]
    return ndimage.binary_fill_holes(parts == centre)
