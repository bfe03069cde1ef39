"""A ResNet of pictures becomes one of clips: R3D, as Qian et al. build it, CVPR 2021 (table 1).

In recipes: `{edit: inflate, values: {frames: 16, stride: 2}, of: [{backbone: resnet50}]}`.
"""

from __future__ import annotations

import dataclasses
from typing import Sequence

import torch
from timm.layers import AvgPool2dSame
from timm.models.resnet import ResNet
from torch import Tensor, nn

from ..backbones.clips import InflatedBackbone
from ..core.clip_input import ClipInput
from ..core.contracts import Edit
from ..core.errors import MarrowError
from ..core.timm_backbone import TimmBackbone

STEM_TAPS, STEM_STRIDE = 5, 2
BLOCK_TAPS, REACHING = 3, ("layer3", "layer4")
UNCHANGED = (nn.Identity, nn.ReLU, nn.SiLU, nn.GELU)  # element by element


@dataclasses.dataclass(frozen=True)
class Inflate(Edit):
    """The first convolution reaches over 5 frames and keeps every second one, the first of each block of the last two
    stages over 3; all others see one frame. frames, stride: of the clips that it is meant for.

    Deviation: weights of the net of pictures stay in the middle frame and all others begin at zero, so before any
    training a clip that stands still has the features of its picture.
    """

    frames: int
    stride: int

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        if min(self.frames, self.stride) < 1:
            raise MarrowError(
                f"{self.frames} frames, {self.stride} apart, make no clip; each is 1 at least", where="inflate"
            )
        backbone = models[0]
        if len(models) != 1 or not isinstance(backbone, TimmBackbone) or not isinstance(backbone.net, ResNet):
            raise MarrowError(f"one ResNet of timm is inflated, got {', '.join(_names(m) for m in models)}", where="inflate",
                              hint="Any other net of pictures goes over the frames: {edit: over_frames, ...}.")  # fmt: skip
        net = backbone.net
        taps = {_first_convolution(net.conv1): STEM_TAPS}
        taps |= {block.conv1: BLOCK_TAPS for layer in REACHING for block in getattr(net, layer)}
        net.global_pool = nn.Identity()  # the backbone takes the mean over time, too
        for parent in list(net.modules()):
            for name, child in list(parent.named_children()):
                if not list(child.children()):
                    setattr(
                        parent,
                        name,
                        inflated(child, taps.get(child, 1), STEM_STRIDE if taps.get(child) == STEM_TAPS else 1),
                    )
        return InflatedBackbone(net, ClipInput.of(backbone.input, self.frames, self.stride))


class EachFrame(nn.Module):
    """A layer of pictures on every frame of (B, C, T, H, W)."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (len(x), x.shape[2])).transpose(1, 2)


def inflated(module: nn.Module, taps: int, stride: int) -> nn.Module:
    """The module on (B, C, T, H, W), reaching over `taps` frames, every `stride`-th of which it keeps."""
    match module:
        case nn.Conv2d():
            return _convolution(module, taps, stride)
        case nn.BatchNorm2d():
            made = nn.BatchNorm3d(module.num_features, module.eps, module.momentum)
            made = made.to(module.weight.device)
            made.load_state_dict(module.state_dict(), assign=True)
            return made.requires_grad_(module.weight.requires_grad)
        case nn.MaxPool2d():
            return nn.MaxPool3d(_tall(module.kernel_size), _tall(module.stride), _tall(module.padding, 0))
        case AvgPool2dSame():
            return EachFrame(module)
        case nn.AvgPool2d():
            return nn.AvgPool3d(_tall(module.kernel_size), _tall(module.stride), _tall(module.padding, 0),
                                module.ceil_mode, module.count_include_pad)  # fmt: skip
    if isinstance(module, UNCHANGED):
        return module
    raise MarrowError(f"a {type(module).__name__} is not known to be inflated", where="inflate",
                      hint="Plain ResNets are; others go over the frames: {edit: over_frames, ...}.")  # fmt: skip


def _convolution(flat: nn.Conv2d, taps: int, stride: int) -> nn.Conv3d:
    made = nn.Conv3d(flat.in_channels, flat.out_channels, _tall(flat.kernel_size, taps), _tall(flat.stride, stride),
                     _tall(flat.padding, taps // 2), _tall(flat.dilation), flat.groups, flat.bias is not None,
                     device="meta")  # fmt: skip
    weight = torch.zeros(made.weight.shape, dtype=flat.weight.dtype, device=flat.weight.device)
    weight[:, :, taps // 2] = flat.weight.detach()
    made.weight = nn.Parameter(weight)
    if flat.bias is not None:
        made.bias = flat.bias
    return made


def _tall(size: int | tuple[int, ...], over_time: int = 1) -> tuple[int, int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return over_time, height, width


def _first_convolution(stem: nn.Module) -> nn.Module:
    return stem if isinstance(stem, nn.Conv2d) else next(m for m in stem.modules() if isinstance(m, nn.Conv2d))


def _names(model: nn.Module) -> str:
    return type(model.net if isinstance(model, TimmBackbone) else model).__name__
