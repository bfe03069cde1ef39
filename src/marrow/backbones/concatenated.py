"""Several backbones as one: their pooled features side by side."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import nn

from ..core.contracts import Backbone, Features
from ..core.errors import MarrowError


class CatBackbone(Backbone):
    """`pooled` is (B, D_1 + ... + D_n), in the order of the members, each of which normalises its own input.

    It gives nothing else: maps and tokens of different nets do not lie side by side.
    """

    gives = frozenset({"pooled"})
    concatenated = True

    def __init__(self, members: Sequence[Backbone]):
        super().__init__()
        first = members[0]
        seen = {(m.modality, m.input.channels, m.input.size) for m in members}
        if len(seen) > 1:
            sizes = ", ".join(f"{m.input.channels} x {m.input.size[0]} x {m.input.size[1]}" for m in members)
            raise MarrowError(f"the members take inputs of different sizes: {sizes}", where="cat",
                              hint="Build them with one img_size.")  # fmt: skip
        self.members = nn.ModuleList(members)
        self.modality, self.input = first.modality, first.input
        self.dim = sum(m.dim for m in members)

    def features(self, x: Any, *, maps: Sequence[int] = ()) -> Features:
        if maps:
            raise MarrowError("concatenated backbones give pooled features and no maps", where="cat")
        return Features(torch.cat([member(x).pooled for member in self.members], 1))

    def checkpoint_gradients(self) -> None:
        for member in self.members:
            member.checkpoint_gradients()
