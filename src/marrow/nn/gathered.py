"""A batch that several processes share, whole again for losses that compare its examples with each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


def gathered(x: Tensor) -> Tensor:
    """Rows (n, ...) of all processes, in their order: (n * processes, ...); every process has as many.

    Gradients go back to the process that a row came from, summed over all that used it. DDP takes the mean of the processes'
    gradients, so a loss that each computes on the gathered batch, or on its own rows against it, is that of one process.
    """
    return _Gather.apply(x) if dist.is_initialized() and dist.get_world_size() > 1 else x


def own_rows(count: int) -> int:
    """The place in a gathered batch at which this process's `count` rows begin."""
    return dist.get_rank() * count if dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.count = len(x)
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> Tensor:
        # Summing everything sends more than each needs, but every backend can do it.
        above = above.contiguous().clone()
        dist.all_reduce(above)
        first = own_rows(ctx.count)
        return above[first : first + ctx.count]
