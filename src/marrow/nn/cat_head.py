"""One linear classifier on concatenated features that says the mean of what several classifiers say."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import MarrowError


class CatHead(nn.Linear):
    """Features (B, D_1 + ... + D_n) -> logits (B, C), with what each member says of its own part kept apart.

    offsets (n, C): what a member's bias is away from the mean bias, so the members' logits are exact and their mean is
    what `forward` says.
    """

    offsets: Tensor

    def __init__(self, widths: Sequence[int], classes: int):
        super().__init__(sum(widths), classes)
        self.widths = tuple(widths)
        self.register_buffer("offsets", torch.zeros(len(widths), classes))

    def members(self, x: Tensor) -> Tensor:
        """The logits (B, n, C) of each member."""
        parts = zip(x.split(self.widths, 1), self.weight.split(self.widths, 1))
        said = torch.stack([F.linear(part, weight) for part, weight in parts], 1)
        return len(self.widths) * said + self.bias + self.offsets


def cat_head(heads: Sequence[nn.Linear]) -> CatHead:
    """W = [W_1, ..., W_n] / n and b = mean b_i: the start of two-stage fine-tuning, equal to the mean of the logits."""
    counts = [head.out_features for head in heads]
    if len(set(counts)) > 1:
        raise MarrowError(f"the classifiers have {', '.join(map(str, counts))} classes and not one number of them",
                          where="cat", hint="Their mean says something where each has the same classes.")  # fmt: skip
    first = heads[0].weight
    made = CatHead([head.in_features for head in heads], counts[0]).to(first.device, first.dtype)
    biases = torch.stack([h.bias if h.bias is not None else h.weight.new_zeros(counts[0]) for h in heads])
    with torch.no_grad():
        made.weight.copy_(torch.cat([head.weight for head in heads], 1) / len(heads))
        made.bias.copy_(biases.mean(0))
        made.offsets.copy_(biases - biases.mean(0))
    return made
