"""Terms that say what two sets of pictures have in common and what only one of them shows (SepCLR, sec. 3).

Codes are rows (N, D); in every term tau is the variance of the Gaussian kernel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CONTINUOUS, DISCRETE = 0.05, 1e-5  # widths of the kernel on attributes: 2 * 0.025, and in effect equality


def align(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """The mean squared distance of the rows, over 2 tau."""
    return (a - b).square().sum(1).mean() / (2 * tau)


def uniform(a: Tensor, tau: float) -> Tensor:
    """log of the mean kernel over all pairs of different rows: minus the entropy by kernel density."""
    first, second = torch.triu_indices(len(a), len(a), 1, device=a.device)
    return (-squared_distances(a)[first, second] / (2 * tau)).logsumexp(0) - math.log(len(first))


def joint(c: Tensor, s: Tensor, tau: float) -> Tensor:
    """The mean over rows i of the log of the mean over j of both kernels: minus the joint entropy, never below -ln N."""
    exponent = -(squared_distances(c) + squared_distances(s)) / (2 * tau)
    return exponent.logsumexp(1).mean() - math.log(len(c))


def attribute_align(s: Tensor, attribute: Tensor, width: float) -> Tensor:
    """One number a row (N,): the mean over pairs of their squared difference, as far as their attributes (N,) agree.

    They agree by exp(-difference^2 / width).
    """
    first, second = torch.triu_indices(len(s), len(s), 1, device=s.device)
    attribute = attribute.to(s.dtype)
    agreement = (-(attribute[first] - attribute[second]).square() / width).exp()
    return (agreement * (s[first] - s[second]).square()).mean()


def without_background(s: Tensor, is_target: Tensor) -> Tensor:
    """Salient codes in which those of the background are 0, the code that says nothing; they get no gradient."""
    return s * is_target[:, None].to(s.dtype)


def squared_distances(a: Tensor) -> Tensor:
    """(N, N) between all rows."""
    length = a.square().sum(1)
    # Rounding takes a pair of equal rows below 0.
    return (length[:, None] + length - 2 * a @ a.mT).clamp_min(0.0)
