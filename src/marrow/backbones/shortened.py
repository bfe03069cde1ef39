"""The first numbers of another backbone's embedding."""

from __future__ import annotations

from typing import Any, Sequence

from torch import nn

from ..core.contracts import Backbone, Features


class ShortenedBackbone(Backbone):
    """As `whole`, with the first `dim` of its pooled features; maps and tokens are untouched."""

    def __init__(self, whole: Backbone, dim: int):
        super().__init__()
        self.whole, self.dim = whole, dim
        self.modality, self.input, self.stages = whole.modality, whole.input, whole.stages

    @property
    def gives(self) -> frozenset[str]:  # type: ignore[override]
        return self.whole.gives

    def features(self, x: Any, *, maps: Sequence[int] = ()) -> Features:
        found = self.whole(x, maps=maps)
        return found._replace(pooled=found.pooled[:, : self.dim])

    @property
    def root(self) -> nn.Module:
        return self.whole.root

    def checkpoint_gradients(self) -> None:
        self.whole.checkpoint_gradients()
