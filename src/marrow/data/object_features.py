"""What a pathologist would measure of one nucleus: shape, colour and texture, as numbers with names.

The object-level features of Tripathi and Singh, "Cell Nuclei Classification in Histopathological Images using Hybrid
OLConvNet", ACM TOMM 2020.

Deviation: the paper's list was not at hand; this one has the usual measures of its three groups, 52 in all.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from torch import Tensor

from ..core.errors import MarrowError
from .stains import check_coloured, haematoxylin_eosin

SHAPE = ("area", "perimeter", "major_axis", "minor_axis", "eccentricity", "solidity", "extent", "convex_area",
         "equivalent_diameter", "circularity", "aspect_ratio", "hu_1", "hu_2")  # fmt: skip
MOMENTS = ("mean", "std", "skewness", "kurtosis", "entropy", "p10", "p90", "range")
COLOURS = ("haematoxylin", "eosin", "grey")
GLCM = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
PATTERNS = 10  # uniform local binary patterns of eight neighbours, and all others as one

GREY_LEVELS = 8
ANGLES = (0.0, math.pi / 4, math.pi / 2, 3 * math.pi / 4)
BINS = 64  # of the histogram behind an entropy, over [0, 1]


def feature_names() -> list[str]:
    """A name a measure, its group first: shape.area, colour.eosin_mean, texture.contrast."""
    colour = [f"{channel}_{name}" for channel in COLOURS for name in MOMENTS]
    texture = [*GLCM, *(f"pattern_{i}" for i in range(PATTERNS))]
    groups = {"shape": SHAPE, "colour": colour, "texture": texture}
    return [f"{group}.{name}" for group, names in groups.items() for name in names]


def object_features(image: Tensor, mask: Tensor, where: str = "image") -> np.ndarray:
    """The features (52,) of what `mask` marks, in the order of `feature_names()`; NaN where a measure is undefined.

    image: (3, H, W), uint8 or float in [0, 1]. mask: (H, W) bool; parts of it are measured as one. An empty mask has no
    features at all, and something cut off by the patch's edge those of the part that is seen. Lengths are in pixels.
    """
    picture = _picture(image, where)
    inside = mask.cpu().numpy().astype(bool)
    if inside.shape != picture.shape[:2]:
        raise MarrowError(f"the mask has {_size(inside)} pixels, its image {_size(picture)}", where=where)
    check_coloured(picture, where)
    if not inside.any():
        return np.full(len(feature_names()), np.nan, np.float32)
    # One pixel more on each side, for the neighbours in local patterns; all else is read inside of the mask or its box.
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    near = tuple(slice(max(0, seen[0] - 1), seen[-1] + 2) for seen in (rows, columns))
    box = tuple(slice(seen[0], seen[-1] + 1) for seen in (rows, columns))
    grey = picture.mean(-1).round().astype(np.uint8)
    values = [*_shape(inside[box]), *_colour(picture[near], inside[near]), *_glcm(grey[box]),
              *_patterns(grey[near], inside[near])]  # fmt: skip
    return np.array(values, np.float32)


def _picture(image: Tensor, where: str) -> np.ndarray:
    """(H, W, 3) uint8"""
    if image.ndim != 3 or image.shape[0] != 3:
        raise MarrowError(f"an image (3, H, W) in colour is needed, this one is {tuple(image.shape)}", where=where)
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())
        if not 0.0 <= low <= high <= 1.0:
            raise MarrowError(f"a float image lies in [0, 1], this one reaches from {low:g} to {high:g}", where=where)
        image = (image * 255.0).round()
    return np.ascontiguousarray(image.cpu().numpy().astype(np.uint8).transpose(1, 2, 0))


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _shape(inside: np.ndarray) -> list[float]:
    from skimage.measure import regionprops

    [region] = regionprops(inside.astype(np.uint8))
    area, perimeter, minor = float(region.area), float(region.perimeter), float(region.axis_minor_length)
    major = float(region.axis_major_length)
    circularity = 4 * math.pi * area / perimeter**2 if perimeter else math.nan
    with warnings.catch_warnings():
        # Points on one line have no convex hull, which the library answers with a warning and 0.
        warnings.simplefilter("ignore", UserWarning)
        convex = float(region.area_convex) or math.nan
    return [area, perimeter, major, minor, float(region.eccentricity), area / convex, float(region.extent), convex,
            float(region.equivalent_diameter_area), circularity, major / minor if minor else math.nan,
            *(float(moment) for moment in region.moments_hu[:2])]  # fmt: skip


def _colour(picture: np.ndarray, inside: np.ndarray) -> list[float]:
    pixels = picture[inside]
    dyes = haematoxylin_eosin(pixels[None])[0]
    channels = (dyes[:, 0], dyes[:, 1], pixels.mean(-1) / 255.0)
    return [value for channel in channels for value in _moments(channel)]


def _moments(values: np.ndarray) -> list[float]:
    """In the order of MOMENTS. Skewness and kurtosis (3 for a normal distribution) of a constant are undefined."""
    mean, std = values.mean(), values.std()
    z = (values - mean) / std if std > 1e-9 else np.full(1, np.nan)
    counts = np.histogram(values, BINS, (0.0, 1.0))[0]
    share = counts[counts > 0] / max(1, counts.sum())
    low, high = np.percentile(values, (10, 90))
    entropy = float(-(share * np.log2(share)).sum()) + 0.0  # without a negative zero
    return [mean, std, (z**3).mean(), (z**4).mean(), entropy, low, high, values.max() - values.min()]


def _glcm(grey: np.ndarray) -> list[float]:
    """Haralick's measures of neighbours at distance 1 in the box around the object, averaged over four directions."""
    from skimage.feature import graycomatrix, graycoprops

    if min(grey.shape) < 2:  # a direction without neighbours
        return [math.nan] * len(GLCM)
    levels = grey // (256 // GREY_LEVELS)
    matrix = graycomatrix(levels, [1], ANGLES, levels=GREY_LEVELS, symmetric=True, normed=True)
    return [float(graycoprops(matrix, name).mean()) for name in GLCM]


def _patterns(grey: np.ndarray, inside: np.ndarray) -> Any:
    """How often each uniform local binary pattern occurs on the object's pixels."""
    from skimage.feature import local_binary_pattern

    codes = local_binary_pattern(grey, PATTERNS - 2, 1, "uniform")[inside].astype(int)
    return np.bincount(codes, minlength=PATTERNS) / len(codes)
