"""Backbones of modality video: a net of pictures on every frame, and one whose convolutions reach over time."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms.v2.functional import rgb_to_grayscale

from ..core.clip_input import ClipInput
from ..core.contracts import Backbone, Features
from ..core.errors import MarrowError
from ..core.wrappers import taps


class FramesBackbone(Backbone):
    """A backbone of pictures on each frame of clips (B, T, 3, H, W); `pooled` is the mean over the frames.

    Maps are (B, C, T, H, W). The order of the frames makes no difference.
    """

    modality = "video"
    gives = frozenset({"pooled", "clips"})

    def __init__(self, picture: Backbone, frames: int, stride: int):
        super().__init__()
        self.picture, self.dim, self.stages = picture, picture.dim, picture.stages
        self.input = ClipInput.of(picture.input, frames, stride)

    def features(self, x: Tensor, *, maps: Sequence[int] = ()) -> Features:
        check_clips(x)
        found = self.picture(x.flatten(0, 1), maps=maps)
        apart = (len(x), x.shape[1])
        return Features(found.pooled.unflatten(0, apart).mean(1),
                        tuple(m.unflatten(0, apart).transpose(1, 2) for m in found.maps))  # fmt: skip

    def checkpoint_gradients(self) -> None:
        self.picture.checkpoint_gradients()


class InflatedBackbone(Backbone):
    """An inflated net of timm (`shrink/inflate.py`) on clips (B, T, 3, H, W), uint8 or float in [0, 1].

    `pooled` is the mean of the last map (B, C, T', H', W').
    """

    modality = "video"
    gives = frozenset({"pooled", "clips"})

    def __init__(self, net: nn.Module, input: ClipInput):
        super().__init__()
        self.net, self.input = net, input
        self.dim, self.stages = net.num_features, len(net.feature_info)
        self.register_buffer("mean", torch.tensor(input.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(input.std).view(-1, 1, 1), persistent=False)

    def features(self, x: Tensor, *, maps: Sequence[int] = ()) -> Features:
        check_clips(x)
        x = x / 255.0 if x.dtype == torch.uint8 else x
        x = rgb_to_grayscale(x) if self.input.channels == 1 and x.shape[2] == 3 else x
        names = [self.net.feature_info[m]["module"] for m in maps]
        with taps(self.net, *names) as inner:
            last = self.net.forward_features(((x - self.mean) / self.std).transpose(1, 2))
        return Features(last.mean((2, 3, 4)), tuple(inner[name] for name in names))

    @property
    def root(self) -> nn.Module:
        return self.net

    def checkpoint_gradients(self) -> None:
        self.net.set_grad_checkpointing(True)


def check_clips(x: Tensor) -> None:
    if x.ndim != 5:
        raise MarrowError(f"clips (B, T, C, H, W) are needed, got {tuple(x.shape)}", where="video backbone",
                          hint="Take the net of pictures itself, without over_frames or inflate.")  # fmt: skip
