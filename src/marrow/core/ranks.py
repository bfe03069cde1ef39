"""What the processes of one training tell each other, and work that is shared out among them."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Callable

import torch
import torch.distributed as dist


class Ranks:
    """This process among those that share a training; alone, everything is answered at once."""

    def __init__(self, rank: int, world: int, device: torch.device):
        self.rank, self.world, self.device = rank, world, device

    @property
    def lead(self) -> bool:
        """The one that writes and measures."""
        return self.rank == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """True for all where it is for one."""
        if self.world == 1:
            return flags
        joint = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(joint, dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in joint)

    def least(self, number: int) -> int:
        return min(self.gather(number))

    def mean(self, values: dict[str, float]) -> dict[str, float]:
        """Of each value over the processes, which have the same names."""
        if self.world == 1:
            return values
        joint = torch.tensor(list(values.values()), device=self.device, dtype=torch.float64)
        dist.all_reduce(joint)
        return dict(zip(values, (joint / self.world).tolist()))

    def gather(self, value: Any) -> list:
        if self.world == 1:
            return [value]
        found: list = [None] * self.world
        dist.all_gather_object(found, value)
        return found

    def map(self, fn: Callable[[Any], Any], items: list, workers: int) -> list:
        """fn of every item, in order. Each process takes every world-th item and gives its share to spawned workers."""
        mine = items[self.rank :: self.world]
        if workers and len(mine) > 1:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(workers, len(mine)), mp_context=context) as pool:
                shares = self.gather(list(pool.map(fn, mine)))
        else:
            shares = self.gather([fn(item) for item in mine])
        return [shares[i % self.world][i // self.world] for i in range(len(items))]
