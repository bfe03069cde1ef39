"""What passes between the nets of a composite backbone: which stages feed which, and how (CBNetV2, sec. III-C)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STYLES = ("slc", "ahlc", "allc", "dhlc", "fcc")


def sources(style: str, stage: int, stages: int) -> list[int]:
    """The stages of the assistant whose outputs reach the input of the lead's `stage`, counted from 0 (sec. III-C).

    slc: the same level, which for an input is the stage before; ahlc: the adjacent higher level; allc: the adjacent lower
    one; dhlc: every higher one; fcc: all. The output of the stem is no source: the lead starts from it already.
    """
    wanted = {
        "slc": [stage - 1],
        "ahlc": [stage],
        "allc": [stage - 2],
        "dhlc": list(range(stage, stages)),
        "fcc": list(range(stages)),
    }[style]
    return [s for s in wanted if s >= 0]


class StillBatchNorm(nn.BatchNorm2d):
    """Batch norm that keeps mean 0 and variance 1 in training too: only its scale and shift learn."""

    def train(self, mode: bool = True) -> "StillBatchNorm":
        return super().train(False)


class Gate(nn.Module):
    """A learned factor that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class Feed(nn.ModuleDict):
    """g^(l-1): the term that is added to one stage's input, a sum over connections from stages of the net before.

    widths: channels of the sources by stage; width: those of the input. A connection is a 1 x 1 convolution, with a batch
    norm between convolutional nets and a bias between Swins, where one between equal widths is the identity. It starts as
    zero, the identity too if `gated`.
    """

    def __init__(self, widths: dict[int, int], width: int, tokens: bool, gated: bool = False):
        super().__init__()
        for source, channels in widths.items():
            if tokens and channels == width:
                self[str(source)] = Gate() if gated else nn.Identity()
                continue
            parts = OrderedDict(conv=nn.Conv2d(channels, width, 1, bias=tokens))
            if not tokens:
                parts["norm"] = StillBatchNorm(width)
            for parameter in parts["conv" if tokens else "norm"].parameters():
                nn.init.zeros_(parameter)
            self[str(source)] = nn.Sequential(parts)

    def forward(self, maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """maps: (B, C, H, W) of every stage of the net before -> (B, width, *size), by nearest neighbours."""
        terms = [F.interpolate(connect(maps[int(source)]), size=size) for source, connect in self.items()]
        return sum(terms[1:], terms[0])
