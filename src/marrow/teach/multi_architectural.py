"""Training of a supernet: every step trains several of its sub-nets, which share its weights."""

from __future__ import annotations

from math import gcd
from typing import Any, Mapping

import torch
import torch.distributed as dist

from ..backbones.vit_resnas_masks import (
    Ranks,
    head_importance,
    hidden_importance,
    masked,
    masks_of,
    order,
    rearrange_heads,
    rearrange_hidden,
    sampled,
)  # fmt: skip
from ..backbones.vit_resnas_space import SearchSpace
from ..backbones.vit_resnas_subnet import supernet
from ..core.contracts import Clock, Method, Step, Task, stem_of
from ..core.errors import MarrowError
from ..data.views import Augment
from ..nn.patch_classifier import PatchClassifier
from ..tasks.classify import Classify

SORTINGS = 30  # over the warm-up: the paper sorts after each of its 30 epochs


class MultiArchitectural(Method):
    """Multi-architectural sampling of ViT-ResNAS (Liao et al., arXiv 2109.00642, sec. 3.3) for a task on a ViT-Res.

    The batch is shared out among `architectures` sub-nets, drawn anew at every step, and goes through the supernet once with a
    mask for each. dims, heads, hidden: widths of a sub-net as shares of the supernet's; removable: blocks that it may lack,
    counted from 0, in every stage that has them; None is every second. warmup: the share of the training in which more and
    more widths are allowed, from the largest on, and in which heads and hidden units are ranked by their weights; afterwards
    the ranking stays. mixing: pictures and labels are mixed as in `token_mixing`.

    The ranking decides which units a mask leaves on, and only at the end are the weights put into its order, so that a sub-net
    is the first part of each. So optimisers' moments stay with their weights. Deviation: the reference moves the weights at each
    sorting and leaves the moments where they were. For the end `fit` is overridden.
    """

    needs = {"task": {"slimmable"}}
    per_sample = False  # the batch is shared out among the sub-nets, and the stem's statistics are those of all

    def __init__(
        self,
        task: Task,
        *,
        architectures: int = 2,
        warmup: float = 0.25,
        dims: tuple[float, ...] = (1.0, 0.875, 0.75, 0.6875, 0.625),
        heads: tuple[float, ...] = (1.0, 0.8333, 0.6667, 0.5),
        hidden: tuple[float, ...] = (1.0, 0.9167, 0.8333, 0.75, 0.6667, 0.5833, 0.5),
        removable: tuple[int, ...] | None = None,
        mixing: bool = False,
        crop: tuple[float, float] | None = None,
        pad: int = 0,
        flip: bool = False,
    ):
        super().__init__()
        if architectures < 1:
            raise MarrowError(
                f"{architectures} sub-nets cannot share a batch", where="multi_architectural.architectures"
            )
        if not 0 < warmup <= 1:
            raise MarrowError(
                f"{warmup} is no share of the training above 0 and up to 1", where="multi_architectural.warmup"
            )
        self.task, self.architectures, self.warmup = task, architectures, warmup
        self.view = Augment(task.input.size, crop=crop, flip=flip, pad=pad)
        net = supernet(task)
        self.patches: PatchClassifier | None = None
        if mixing:
            if not isinstance(task, Classify):
                raise MarrowError(f"mixed pictures are for the task classify, this is {stem_of(type(task))}",
                                  where="multi_architectural.mixing")  # fmt: skip
            self.patches = PatchClassifier(task.backbone, task.classes, task.label_smoothing)
        self.space = SearchSpace.of(net, dims, heads, hidden, removable)
        for i, stage in enumerate(net.stages):
            for j, block in enumerate(stage.blocks):
                self.register_buffer(f"heads_{i}_{j}", torch.arange(block.attn.heads))
                self.register_buffer(f"hidden_{i}_{j}", torch.arange(block.mlp.fc1.out_features))
        self.register_buffer("sortings", torch.zeros((), dtype=torch.long))

    def ranks(self) -> list[list[Ranks]]:
        return [
            [Ranks(self.get_buffer(f"heads_{i}_{j}"), self.get_buffer(f"hidden_{i}_{j}")) for j in range(depth)]
            for i, depth in enumerate(self.space.depths)
        ]

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        examples, (rank, ranks) = len(batch["image"]), _ranks()
        each, left = divmod(examples * ranks, self.architectures)
        if left:
            raise MarrowError(f"a batch of {examples * ranks} cannot be shared out evenly among {self.architectures} sub-nets",
                              where="multi_architectural.architectures")  # fmt: skip
        drawn = sampled(self.space, self.architectures, min(clock.progress / self.warmup, 1.0), clock.rng)
        run = gcd(examples, each)
        own = [drawn[(rank * examples + first) // each] for first in range(0, examples, run)]
        net = supernet(self.task)
        with masked(net, masks_of(net, own, self.ranks(), run)):
            if self.patches is None:
                return Step(self.task.losses(self.task(batch), batch))
            task: Any = self.task
            picture = self.patches.mixed(batch, clock.rng)
            features = task.backbone(picture.image)
            return Step(self.patches.losses(task.head(features.pooled), features.tokens, picture))

    @torch.no_grad()
    def after_step(self, clock: Clock) -> None:
        due = int(min(clock.progress / self.warmup, 1.0) * SORTINGS)
        if due > int(self.sortings):
            self.sortings.fill_(due)
            for stage, ranks in zip(supernet(self.task).stages, self.ranks()):
                for block, rank in zip(stage.blocks, ranks):
                    rank.heads.copy_(order(head_importance(block.attn)).argsort())
                    rank.hidden.copy_(order(hidden_importance(block.mlp)).argsort())

    def fit(self, engine: Any, data: Any) -> None:
        if engine.settings.compile or engine.settings.checkpoint_gradients:
            raise MarrowError("masks change with every step, so a supernet is neither compiled nor run again for its gradients",
                              where="compile" if engine.settings.compile else "checkpoint_gradients")  # fmt: skip
        engine.train(self, data)
        for stage, ranks in zip(supernet(self.task).stages, self.ranks()):
            for block, rank in zip(stage.blocks, ranks):
                rearrange_heads(block.attn, rank.heads.argsort())
                rearrange_hidden(block.mlp, rank.hidden.argsort())
                rank.heads.copy_(rank.heads.sort().values)
                rank.hidden.copy_(rank.hidden.sort().values)

    def views(self) -> Augment:
        return self.view

    def product(self) -> Task:
        return self.task


def _ranks() -> tuple[int, int]:
    """(this one's number, how many there are): the processes that share a batch."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
