"""What test_info_nce.py compares: losses and gradients of one of two processes, and of one alone: `info_nce_run.py FOLDER`.

Each process has its own half of the batch; alone, before they join, the first takes both halves.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from marrow.core.contracts import Backbone, Clock, Features, Input
from marrow.nn.info_nce import info_nce, nt_xent
from marrow.teach.sepclr import SepCLR

FIRST = Clock(step=0, epoch=0, progress=0.0)


class Flat(Backbone):
    """A linear layer on the pixels of a 4 x 4 grey picture: no BatchNorm."""

    spec, dim, gives, input = {"source": "test:flat"}, 6, frozenset({"pooled"}), Input(size=(4, 4), channels=1)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 6)

    def features(self, x, *, maps=()):
        return Features(self.linear(x.flatten(1).float()))


def part(x: torch.Tensor, rank: int, world: int) -> torch.Tensor:
    return x[rank * len(x) // world : (rank + 1) * len(x) // world]


def found(rank: int, world: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pictures = torch.randn(4, 12, 1, 4, 4)
    a, b, c, d = (part(view, rank, world) for view in pictures)
    losses, net = {}, Flat()
    for name, loss in (("info_nce", info_nce), ("nt_xent", nt_xent)):
        losses[name] = loss(net(a).pooled, net(b).pooled)
    method = SepCLR(Flat(), Flat(), dim=3, salient_dim=2)
    for head in method.heads.values():
        head[1] = nn.Identity()  # its BatchNorm would see other pictures on each process
    batch = {"background": {"view_1": a, "view_2": b}, "target": {"view_1": c, "view_2": d}}
    losses["k-jem"] = sum(method(batch, FIRST).losses.values())
    sum(losses.values()).backward()
    gradients = {f"{i}.{n}": p.grad for i, m in enumerate((net, method)) for n, p in m.named_parameters()}
    return {name: loss.detach() for name, loss in losses.items()} | gradients


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    if rank == 0:
        torch.save(found(0, 1), folder / "alone.pt")
    dist.init_process_group("gloo")
    torch.save(found(rank, 2), folder / f"found-{rank}.pt")
    dist.destroy_process_group()
