"""The convolution that decoders are made of."""

from __future__ import annotations

from torch import nn


def conv_norm(channels: int, width: int, kernel: int = 3, dilation: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, batch normalisation, ReLU."""
    conv = nn.Conv2d(channels, width, kernel, padding=dilation * (kernel // 2), dilation=dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())
