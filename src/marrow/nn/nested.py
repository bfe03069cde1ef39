"""Embeddings whose first m numbers are embeddings themselves: their sizes, and linear classifiers on each."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import MarrowError

SMALLEST = 8  # halving stops there, as in the paper: 2048 gives nine sizes from 8 on, 768 seven from 12 on


def nested_sizes(width: int) -> tuple[int, ...]:
    """The width, its half, its quarter and so on down to about 8, in ascending order."""
    sizes = [width]
    while sizes[-1] // 2 >= SMALLEST:
        sizes.append(sizes[-1] // 2)
    return tuple(reversed(sizes))


def check_sizes(sizes: Sequence[int], width: int, where: str) -> None:
    """Raise unless the sizes are positive, ascending and within the width of the embedding."""
    if not sizes:
        raise MarrowError("one nested size or more is needed", where=where)
    if (smallest := min(sizes)) < 1:
        raise MarrowError(f"size {smallest} holds no feature; 1 or more does", where=where)
    if any(a >= b for a, b in pairwise(sizes)):
        raise MarrowError(f"{', '.join(map(str, sizes))} are not in ascending order, each once", where=where)
    if sizes[-1] > width:
        raise MarrowError(f"size {sizes[-1]} > embedding width {width}", where=where)


def check_trained(size: int, sizes: Sequence[int], where: str, between: bool = True) -> None:
    """Raise at a size for which nothing was trained. between: one between two trained sizes fits as well."""
    if sizes[0] <= size <= sizes[-1] if between else size in sizes:
        return
    what = f"a size from {sizes[0]} to {sizes[-1]}" if between else f"one of {', '.join(map(str, sizes))}"
    raise MarrowError(f"size {size} was not trained; {what} fits", where=where)


class NestedHeads(nn.Module):
    """MRL: features (B, D) -> for each size m the logits (B, C) of a linear classifier on the first m features."""

    def __init__(self, sizes: Sequence[int], classes: int):
        super().__init__()
        self.sizes = tuple(sizes)
        self.heads = nn.ModuleList([nn.Linear(size, classes) for size in sizes])

    def forward(self, x: Tensor) -> list[Tensor]:
        return [head(x[:, :size]) for size, head in zip(self.sizes, self.heads)]

    @torch.no_grad()
    def start_from(self, whole: nn.Linear) -> None:
        """Each takes the columns of its features, so the largest says what `whole` says."""
        for size, head in zip(self.sizes, self.heads):
            head.weight.copy_(whole.weight[:, :size])
            head.bias.copy_(whole.bias)

    def at(self, size: int) -> nn.Linear:
        """The classifier of one of its sizes."""
        if size not in self.sizes:
            raise MarrowError(f"there is no classifier of size {size}; the sizes are {', '.join(map(str, self.sizes))}",
                              where="size")  # fmt: skip
        return self.heads[self.sizes.index(size)]


class TiedHead(nn.Module):
    """MRL-E: one classifier for all sizes, whose first m columns and whose bias are that of size m."""

    def __init__(self, sizes: Sequence[int], classes: int):
        super().__init__()
        self.sizes = tuple(sizes)
        self.whole = nn.Linear(self.sizes[-1], classes)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Logits of a size are those of the size before and what the features between them add: the cost of one head."""
        weight, bias = self.whole.weight, self.whole.bias
        added = [F.linear(x[:, a:b], weight[:, a:b]) for a, b in pairwise((0, *self.sizes))]
        return [said + bias for said in accumulate(added, torch.add)]

    @torch.no_grad()
    def start_from(self, whole: nn.Linear) -> None:
        self.whole.weight.copy_(whole.weight[:, : self.sizes[-1]])
        self.whole.bias.copy_(whole.bias)

    def at(self, size: int) -> nn.Linear:
        """The classifier of any size from the smallest to the largest: those in between come out well, untrained."""
        if not self.sizes[0] <= size <= self.sizes[-1]:
            raise MarrowError(
                f"size {size} is outside {self.sizes[0]} to {self.sizes[-1]}, which were trained", where="size"
            )
        made = nn.Linear(size, self.whole.out_features).to(self.whole.weight.device, self.whole.weight.dtype)
        with torch.no_grad():
            made.weight.copy_(self.whole.weight[:, :size])
            made.bias.copy_(self.whole.bias)
        return made
