"""A backbone of pictures becomes one of clips: it looks at each frame, and the mean counts.

In recipes: `{edit: over_frames, values: {frames: 16, stride: 2}, of: [{backbone: resnet18, img_size: 112}]}`.
"""

from __future__ import annotations

import dataclasses
from typing import Sequence

from torch import nn

from ..backbones.clips import FramesBackbone
from ..core.contracts import Backbone, Edit
from ..core.errors import MarrowError


@dataclasses.dataclass(frozen=True)
class OverFrames(Edit):
    """frames, stride: how many frames of a video are looked at where no method says it, and how far apart."""

    frames: int
    stride: int

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        if min(self.frames, self.stride) < 1:
            raise MarrowError(
                f"{self.frames} frames, {self.stride} apart, make no clip; each is 1 at least", where="over_frames"
            )
        if len(models) != 1 or not isinstance(models[0], Backbone) or models[0].modality != "image":
            raise MarrowError(f"one backbone of pictures is put over frames, got {', '.join(type(m).__name__ for m in models)}",
                              where="over_frames")  # fmt: skip
        return FramesBackbone(models[0], self.frames, self.stride)
