"""An order that reads nearly sequentially: groups in random order, shuffled within blocks."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor

BLOCK = 4096  # examples shuffled among each other: enough to mix classes, few enough to stay in the page cache


def by_blocks(sizes: Sequence[int], generator: torch.Generator, block: int = BLOCK) -> Tensor:
    """A permutation (N,) of examples that lie in groups (shards, row groups) of these sizes, one after another."""
    starts = torch.tensor([0, *sizes]).cumsum(0).tolist()
    groups = torch.randperm(len(sizes), generator=generator).tolist()
    order = torch.cat([torch.arange(starts[g], starts[g + 1]) for g in groups])
    return torch.cat([part[torch.randperm(len(part), generator=generator)] for part in order.split(block)])
