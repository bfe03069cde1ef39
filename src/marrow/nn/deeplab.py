"""The decoder of DeepLabV3+."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu

from ..core.errors import MarrowError
from .conv_norm import conv_norm

RATES = (6, 12, 18)  # at stride 16 (sec. 4)
FINE = 48  # channels that the fine map keeps (sec. 4.1)


class DeepLab(nn.Module):
    """Atrous spatial pyramid pooling on the coarsest map, joined with the finest.

    Chen et al., Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation, ECCV 2018, sec. 3.1.
    Maps (B, C_i, H_i, W_i), finest first, -> (B, classes, H_0, W_0). channels, strides: of the maps; the rates of the
    atrous convolutions are the paper's at stride 16 and cover as much of the picture at others. width: the paper's is 256.

    Deviation: plain convolutions, the variant of table 2. The image's mean is not batch-normalised, which a batch of one
    could not be in training.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[float], classes: int, width: int = 256):
        super().__init__()
        if len(channels) < 2:
            raise MarrowError("deeplab joins a fine map with a coarse one; this backbone has maps of one stride",
                              where="segment.decoder", hint="fpn takes one.")  # fmt: skip
        rates = [max(1, round(rate * 16 / strides[-1])) for rate in RATES]
        self.atrous = nn.ModuleList([conv_norm(channels[-1], width, 1)])
        self.atrous.extend(conv_norm(channels[-1], width, 3, rate) for rate in rates)
        self.whole = nn.Conv2d(channels[-1], width, 1)
        self.project = conv_norm(5 * width, width, 1)
        self.fine = conv_norm(channels[0], FINE, 1)
        self.join = nn.Sequential(conv_norm(width + FINE, width), conv_norm(width, width))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fine, coarse = maps[0], maps[-1]
        whole = relu(self.whole(coarse.mean((2, 3), keepdim=True))).expand(-1, -1, *coarse.shape[-2:])
        x = self.project(torch.cat([*(branch(coarse) for branch in self.atrous), whole], 1))
        x = interpolate(x, fine.shape[-2:], mode="bilinear")
        return self.head(self.join(torch.cat([x, self.fine(fine)], 1)))
