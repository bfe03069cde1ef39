"""The decoder of semantic FPN."""

from __future__ import annotations

import math
from typing import Sequence

from torch import Tensor, nn
from torch.nn.functional import interpolate


class SemanticFPN(nn.Module):
    """A feature pyramid whose levels are brought to a quarter of the picture and added.

    Kirillov et al., Panoptic Feature Pyramid Networks, CVPR 2019, sec. 3.1. Maps (B, C_i, H_i, W_i), finest first, ->
    (B, classes, H, W): a quarter of the picture, or the size of the finest map where that is larger. channels, strides:
    of the maps. width: channels of the pyramid and of the levels' branches (the paper: 256 and 128).
    Deviation: one width for both, so that a decoder for small backbones has one number.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[float], classes: int, width: int = 128):
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c in channels)
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in channels)
        # Beyond the finest map there is no other whose size could be taken: so many doublings are left to a quarter.
        self.doublings = max(0, round(math.log2(strides[0] / 4)))
        self.branches = nn.ModuleList(
            nn.ModuleList(_block(width) for _ in range(max(1, level + self.doublings)))
            for level in range(len(channels))
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        pyramid = [lateral(m) for lateral, m in zip(self.lateral, maps)]
        for i in reversed(range(len(pyramid) - 1)):
            pyramid[i] = pyramid[i] + interpolate(pyramid[i + 1], pyramid[i].shape[-2:], mode="nearest")
        height, width = maps[0].shape[-2:]
        sizes = [(height << n, width << n) for n in reversed(range(1, self.doublings + 1))]
        sizes += [(m.shape[-2], m.shape[-1]) for m in maps]
        total = None
        for level, (x, smooth) in enumerate(zip(pyramid, self.smooth)):
            x, way = smooth(x), sizes[: level + self.doublings][::-1]
            for i, block in enumerate(self.branches[level]):
                x = block(x)
                if i < len(way):
                    x = interpolate(x, way[i], mode="bilinear")
            total = x if total is None else total + x
        return self.head(total)


def _block(width: int) -> nn.Sequential:
    # 32 groups as in the paper, of two channels at least: one alone has no variance on a map of one pixel.
    groups = min(math.gcd(32, width), max(1, width // 2))
    norm = nn.GroupNorm(groups, width)
    return nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), norm, nn.ReLU())
