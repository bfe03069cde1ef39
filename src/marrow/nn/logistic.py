"""Logistic regression, solved to its minimum: a probe that no learning rate decides on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 200  # far more than a convex problem of standardised features takes


def standardised(train: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Features (N, D) with the mean and deviation of `train` taken out; a constant one becomes 0."""
    mean, deviation = train.mean(0), train.std(0, correction=0)
    # A BatchNorm in evaluation that has seen all of `train`; what varies by rounding only is no feature.
    scale = torch.where(deviation > 1e-6 * (1 + mean.abs()), 1 / deviation.clamp(min=1e-12), 0.0)
    return tuple((x - mean) * scale for x in (train, *others))


def logistic(x: Tensor, y: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """(weight (C, D), bias (C,)) that minimise the mean cross-entropy + penalty / 2 * |weight|^2 of x (N, D), y (N,)."""
    weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, tolerance_grad=1e-5, tolerance_change=1e-9,
                               history_size=20, line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), y) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(loss)
    return weight.detach(), bias.detach()
