"""How sure a share is: the interval that stands beside every accuracy."""

from __future__ import annotations

import math

from torch import Tensor

Z = 1.959964  # 95 % of a normal distribution lies within so many deviations


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a share `successes / n`, 95 % by default; never leaves [0, 1]."""
    if not 0 <= successes <= n or not n > 0:
        raise ValueError(f"{successes} of {n} is not a share")
    share, pull = successes / n, z * z / n
    centre = (share + pull / 2) / (1 + pull)
    half = z / (1 + pull) * math.sqrt(share * (1 - share) / n + pull / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def balanced(confusion: Tensor) -> tuple[float, float]:
    """The 95 % interval of balanced accuracy: the mean recall over the classes with images, (C, C) counts by true class.

    Wilson's interval at the number of images that would be as sure if all were drawn alike: m (1 - m) over the variance
    of the mean recall. For both, a class's recall is taken at the centre of its own Wilson interval, or five images that
    are all right would count as certain. One class alone gives Wilson's interval.
    """
    n = confusion.sum(1).double()
    right = confusion.diagonal().double()[n > 0]
    n = n[n > 0]
    if not len(n):
        raise ValueError("no class has an image")
    centre = (right + Z * Z / 2) / (n + Z * Z)
    variance = (centre * (1 - centre) / n).sum().item() / len(n) ** 2
    middle = centre.mean().item()
    as_many = middle * (1 - middle) / variance
    return wilson((right / n).mean().item() * as_many, as_many)
