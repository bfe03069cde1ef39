"""How sure a share is: the interval that stands beside every accuracy."""

from __future__ import annotations

import math


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share `successes / n`, 95 % by default; never leaves [0, 1]."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is not a share")
    share, pull = successes / n, z * z / n
    centre = (share + pull / 2) / (1 + pull)
    half = z / (1 + pull) * math.sqrt(share * (1 - share) / n + pull / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)
