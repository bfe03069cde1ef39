"""The small nets between a backbone and a loss on embeddings; they are dropped after training."""

from __future__ import annotations

from torch import nn


def projection(inside: int, hidden: int, out: int, *, places: bool = False) -> nn.Sequential:
    """Two linear layers with a BatchNorm and a ReLU between, on (B, inside); `places`: on each place of (B, inside, H, W)."""
    if places:
        return nn.Sequential(nn.Conv2d(inside, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
                             nn.Conv2d(hidden, out, 1))  # fmt: skip
    return nn.Sequential(
        nn.Linear(inside, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )
