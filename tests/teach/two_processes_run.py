"""What test_two_processes.py compares: one of two processes, each with its half of a batch: `two_processes_run.py FOLDER`.

Before they join, the first takes both halves alone.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from marrow.backbones.clips import FramesBackbone
from marrow.core.contracts import Backbone, Clock, Features, Input
from marrow.core.spec import build
from marrow.tasks.classify import Classify
from marrow.teach.advstyle import LEARNED, AdvStyle, StylePlace
from marrow.teach.cvrl import CVRL
from marrow.teach.supervised import Supervised
from marrow.teach.vrex import VREx

FIRST = Clock(step=0, epoch=0, progress=0.0)
NET = {"source": "timm:resnet10t", "args": {"img_size": 64, "channels": [8, 8, 8, 8], "stem_width": 8}}


class Flat(Backbone):
    """A linear layer on the pixels of a 4 x 4 grey picture: no BatchNorm."""

    spec, dim, gives, input = {"source": "test:flat"}, 6, frozenset({"pooled"}), Input(size=(4, 4), channels=1)

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 6)

    def features(self, x, *, maps=()):
        return Features(self.linear(x.flatten(1).float()))


def part(x, rank, world):
    return x[rank * len(x) // world : (rank + 1) * len(x) // world]


def cvrl(rank, world):
    torch.manual_seed(0)
    clips = torch.randn(2, 8, 3, 1, 4, 4)
    method = CVRL(FramesBackbone(Flat(), frames=3, stride=1), layers=0, out=4)
    one, two = (part(view, rank, world) for view in clips)
    loss = method({"clip_1": one, "clip_2": two, "looped": torch.zeros(len(one))}, FIRST).losses["contrast"]
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in method.named_parameters()}


def learned_style(rank, world):
    """With scales that have begun, an image's new style is its own affair, so the halves make up the whole."""
    torch.manual_seed(0)
    place = StylePlace(5, "advstyle", 10.0)
    place.first.fill_(False)
    with torch.no_grad():
        for scale in place.parameters():
            scale.uniform_(0.5, 1.5)
    x, *noise = torch.randn(8, 5, 6, 6), torch.randn(8, 5, 1, 1), torch.randn(8, 5, 1, 1)
    x, *noise = (part(each, rank, world) for each in (x, *noise))
    loss = place(x, LEARNED, tuple(noise)).pow(3).mean()
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in place.named_parameters()}


def vrex(rank, world):
    """Three domains, of which each half of the batch lacks one."""
    torch.manual_seed(0)
    method = VREx(Supervised(Classify(Flat(), classes=3)))
    image, label = torch.randn(8, 1, 4, 4), torch.arange(8) % 3
    domain = ["photo", "sketch", "sketch", "sketch", "photo", "photo", "photo", "cartoon"]
    batch = {"image": part(image, rank, world), "label": part(label, rank, world), "domain": part(domain, rank, world)}
    losses = method(batch, Clock(step=9, epoch=0, progress=0.9)).losses
    sum(losses.values()).backward()
    return {k: v.detach() for k, v in losses.items()} | {n: p.grad for n, p in method.named_parameters()}


def beginning(rank):
    """The scales that a process begins with, from its own images, and what both go on with."""
    torch.manual_seed(0)
    method = AdvStyle(Classify(build(NET), classes=3)).train()
    torch.manual_seed(rank)
    begins = next(s for s in range(99) if _begins(method, Clock(step=s, epoch=0, progress=0.0)))
    method({"image": torch.rand(4, 3, 64, 64), "label": torch.arange(4) % 3}, Clock(step=begins, epoch=0, progress=0.0))
    place = method.styles[0]
    own = place.mean_scale.detach().clone()
    method.after_step(FIRST)
    return {"own": own, "agreed": place.mean_scale.detach().clone()}


def _begins(method, clock):
    """Whether the first place learns in this step."""
    return method.branches[int(torch.rand(len(method.places), generator=clock.rng)[0] * 3)] == LEARNED


if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    if rank == 0:
        torch.save({"cvrl": cvrl(0, 1), "learned_style": learned_style(0, 1), "vrex": vrex(0, 1)}, folder / "alone.pt")
    dist.init_process_group("gloo")
    found = {"cvrl": cvrl(rank, 2), "learned_style": learned_style(rank, 2), "vrex": vrex(rank, 2)}
    found["beginning"] = beginning(rank)
    torch.save(found, folder / f"found-{rank}.pt")
    dist.destroy_process_group()
