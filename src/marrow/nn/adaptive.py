"""Adaptive classification: the smallest nested size that is sure enough of an image answers for it."""

from __future__ import annotations

import torch
from torch import Tensor

GRID = 100  # thresholds that are tried, from 0.1 to 1


def fit_thresholds(probability: Tensor, label: Tensor) -> Tensor:
    """For each size but the last the confidence (G - 1,) above which it answers; probability (G, N, C) ascending in size.

    Neighbours are looked at in pairs: of the thresholds at which the smaller for what it is sure of and the larger for the
    rest are right most often, the smallest. The images must be none that the result is measured on.
    """
    grid = torch.linspace(0.1, 1.0, GRID, dtype=torch.float64, device=probability.device)
    sure, said = probability.double().max(-1)  # (G, N)
    right = (said == label).double()
    found = []
    for i in range(len(probability) - 1):
        answers = sure[i] > grid[:, None]  # (GRID, N)
        score = torch.where(answers, right[i], right[i + 1]).sum(1)
        found.append(grid[(score == score.max()).nonzero()[0, 0]])
    return torch.stack(found) if found else grid[:0]


def adaptive(probability: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The label (N,) that each image gets, and the number (N,) of the size that gave it: the first above its threshold.

    The last of probability (G, N, C) answers for whatever is left.
    """
    sure, said = probability.double().max(-1)
    stops = torch.cat([sure[:-1] > thresholds[:, None], torch.ones_like(sure[:1], dtype=torch.bool)])
    first = stops.double().argmax(0)
    return said.gather(0, first[None])[0], first
