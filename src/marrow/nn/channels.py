"""Which channels of a layer stay: how many, and the strongest of them."""

from __future__ import annotations

import math

from torch import Tensor


def kept_count(channels: int, ratio: float, round_to: int, groups: int = 1) -> int:
    """How many of `channels` stay when a fraction `ratio` goes: the nearest multiple of `round_to`, at least one.

    A layer no wider than `round_to` keeps all. `groups` convolution groups keep equally many each; where no multiple of
    both is below `channels`, only the groups count.
    """
    step = math.lcm(round_to, groups)
    if groups > 1 and step >= channels:
        step = groups
    wanted = math.floor(channels * (1 - ratio) / step + 0.5) * step
    return min(channels, max(step, wanted))


def strongest(score: Tensor, count: int, groups: int = 1) -> list[int]:
    """Sorted indices of the `count` highest of `score` (C,); equal scores prefer the lower index.

    With `groups`, the mean score over the groups decides and every group keeps the same positions.
    """
    inside = score.view(groups, -1)
    order = inside.mean(0).argsort(descending=True, stable=True)[: count // groups].sort().values.tolist()
    return [group * inside.shape[1] + i for group in range(groups) for i in order]
