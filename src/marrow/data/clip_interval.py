"""Where two clips of a video begin: near each other more often than far apart (Qian et al., CVPR 2021, sec. 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.errors import MarrowError


def sample_interval(max_offset: int, power: float, u: Tensor) -> Tensor:
    """Whole numbers t in [0, max_offset), of density proportional to 1 - (t / max_offset)^power, one for each u in [0, 1).

    power 1 falls in a straight line; `math.inf` is uniform. Below 0 the density rises: (t / max_offset)^-power, which the
    paper finds worse than uniform.
    """
    check_power(power, "sample_interval.power")
    if max_offset < 1:
        raise MarrowError(f"a largest distance of {max_offset}; 1 or more is needed", where="sample_interval")
    u = u.double()
    if power < 0:
        return (max_offset * u ** (1 / (1 - power))).long().clamp(max=max_offset - 1)
    if power == 1:
        return (max_offset * (1 - (1 - u).sqrt())).long()
    if math.isinf(power):
        return (max_offset * u).long()
    low, high = torch.zeros_like(u, dtype=torch.long), torch.full_like(u, max_offset, dtype=torch.long)
    for _ in range(max_offset.bit_length()):  # until they are neighbours
        middle = (low + high) // 2
        above = cumulated(middle, max_offset, power) > u
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return low


def check_power(power: float, where: str) -> None:
    if math.isnan(power) or power in (0, -math.inf):
        raise MarrowError(f"{power} is no power: above 0 near clips are likelier, inf makes all distances alike, below 0 "
                          "distant clips are likelier", where=where)  # fmt: skip


def cumulated(t: Tensor, max_offset: int, power: float) -> Tensor:
    """The probability of a distance below t, for a finite power."""
    x = t.double() / max_offset
    return ((power + 1) * x - x ** (power + 1)) / power


def two_starts(length: int, frames: int, stride: int, power: float) -> tuple[int, int, bool]:
    """Where the two clips of `frames` frames, `stride` apart, begin in a video, in a random order; True: it is too short.

    In one that is too short both begin anywhere, and run over its end into its beginning.
    """
    room = length - (frames - 1) * stride
    u, v, w = torch.rand(3).double()
    if room <= 0:
        return int(u * length), int(v * length), True
    apart = int(sample_interval(room, power, u))
    first = int(v * (room - apart))
    return (first, first + apart, False) if w < 0.5 else (first + apart, first, False)
