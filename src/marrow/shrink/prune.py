"""A narrower net: the channels, attention heads and hidden units with the smallest weights are taken out."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping, Sequence

from torch import nn

from ..core.contracts import Cut, Edit, Shrinker
from ..core.errors import MarrowError
from .slicing import slice_model


@dataclasses.dataclass(frozen=True)
class Prune(Edit):
    """Slices tensors and sets what their modules know about them; what is left of the weights stays as it was.

    channels: sets of kept indices, as "0-15 18 20-31". tensors: name -> for each of its first dimensions a position in
    `channels`, or None for a dimension that stays whole. attributes: module -> values of those that `slicing.ATTRIBUTES`
    lists for its class.
    """

    channels: Sequence[str]
    tensors: Mapping[str, Sequence[int | None]]
    attributes: Mapping[str, Mapping[str, Any]]

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        (model,) = models
        slice_model(model, self.channels, self.tensors, self.attributes)
        return model


class MagnitudePrune(Shrinker):
    """Takes out a fraction `ratio` of the channels of every layer that can spare them: those of the smallest L2 norm.

    Channels that must go together (a convolution, its normalisation, what is added to it, what reads it) are one group
    and ranked by the mean of their squared norms over all tensors involved, within the group. `round_to`: as many as a
    multiple of it stay. Plain ViTs, PVTs and ViT-Res lose whole heads and hidden units of their MLPs, EMO expanded channels;
    what passes between blocks keeps its width. The model's outputs stay. The gates of ECA-Net then see the channels that are
    left, each with other neighbours. Groups are found by Torch-Pruning; but for gates and norms the result is compared
    with the net as it is when nothing reads the channels that go, so a wrong group is found out here. Training recovers
    most of the loss.
    """

    needs = {"model": set()}

    def __init__(self, *, ratio: float = 0.3, round_to: int = 16):
        if not 0.0 <= ratio <= 0.95:
            raise MarrowError(f"{ratio} is outside 0..0.95 (fraction of channels removed)", where="prune.ratio")
        if round_to < 1:
            raise MarrowError(f"{round_to} is no number of channels; 1 or more is needed", where="prune.round_to")
        self.ratio, self.round_to = ratio, round_to

    def plan(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Cut:
        from .prune_plan import plan  # brings Torch-Pruning, which replaying an edit must not need

        return Cut(Prune(*plan(models["model"], self.ratio, self.round_to)))
