"""ECA-Net: channel attention with a handful of weights, in plain ResNets and in MobileNetV2.

Wang et al., "ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks", CVPR 2020. A gate averages each
channel of X (B, C, H, W) over its pixels, lets k neighbouring channels speak to each other by one 1-D convolution that all
share, zeros beyond the ends, and multiplies: X * sigmoid(conv_k(mean(X))) (eq. 9). It sits at the end of a residual branch,
behind its last normalisation and before the addition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

from timm.layers import EcaModule
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_blocks import DepthwiseSeparableConv
from timm.models._efficientnet_builder import decode_arch_def, round_channels
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from ..core.errors import MarrowError
from .map_net import untrained

__all__ = ["ECAMobileNetV2", "ECAResNet"]

Kernels = Literal["adaptive"] | Sequence[int]

# The released networks have one size for all blocks of a stage; they are not those of `kernel_size`.
RELEASED = {18: (3, 5, 7, 7), 34: (3, 3, 5, 7), 50: (3, 5, 5, 7), 101: (3, 3, 5, 7), 152: (3, 3, 5, 7)}
LAYERS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
MOBILENETV2 = ("ds_r1_k3_s1_c16", "ir_r2_k3_s2_e6_c24", "ir_r3_k3_s2_e6_c32", "ir_r4_k3_s2_e6_c64",
               "ir_r3_k3_s1_e6_c96", "ir_r3_k3_s2_e6_c160", "ir_r1_k3_s1_e6_c320")  # fmt: skip


def kernel_size(channels: int, gamma: float = 2.0, beta: float = 1.0) -> int:
    """How many neighbours speak to each other, from the number of channels (eq. 12).

    "The nearest odd number" of the paper is, in its code, the whole part of (log2(C) + b) / gamma, made odd by adding 1.
    """
    size = int(abs((math.log2(channels) + beta) / gamma))
    return size if size % 2 else size + 1


def gate(size: int, where: str) -> EcaModule:
    """The attention itself, on maps (B, C, H, W); its only weight is `conv.weight` (1, 1, size)."""
    if size < 1 or size % 2 == 0:
        raise MarrowError(f"the kernel size must be odd, got {size}", where=where)
    return EcaModule(kernel_size=size)


class ECAResNet(ResNet):
    """A plain ResNet whose every residual branch ends in a gate (sec. 4.1).

    kernel_sizes: one for each of the four stages, or "adaptive" for `kernel_size` of each block's channels.
    zero_init_last: start the residual branches at zero, as timm's ResNets do and the released training does not.
    Deviation: the pooling before the classifier takes maps of any size, where the released nets take 7 x 7 only.
    """

    tiny = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32), "num_classes": 10}

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock,
        layers: Sequence[int] = (2, 2, 2, 2),
        kernel_sizes: Kernels = "adaptive",
        channels: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = False,
    ):
        super().__init__(
            block, tuple(layers), num_classes, in_chans, output_stride, global_pool, channels=tuple(channels),
            drop_rate=drop_rate, drop_path_rate=drop_path_rate, zero_init_last=zero_init_last,
        )  # fmt: skip
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        for stage, size, width in zip(stages, _each(kernel_sizes, 4), channels, strict=True):
            for each in stage:
                each.se = gate(size or kernel_size(width * block.expansion), "ECAResNet.kernel_sizes")

    def no_weight_decay(self) -> set[str]:
        return set()


class ECAMobileNetV2(EfficientNet):
    """MobileNetV2 with a gate behind the linear projection of every block, also of those without a shortcut (sec. 4.1).

    kernel_sizes: one for each of the seven stages. In the released table, 1 below 96 channels and 3 from there on (31
    weights); the code as it stands today has 1 at 96 as well, (1, 1, 1, 1, 1, 3, 3).
    width: multiplies every number of channels.
    """

    tiny = {"width": 0.1, "num_classes": 10}

    def __init__(
        self,
        kernel_sizes: Kernels = (1, 1, 1, 1, 3, 3, 3),
        width: float = 1.0,
        num_classes: int = 1000,
        in_chans: int = 3,
        output_stride: int = 32,
        global_pool: str = "avg",
        drop_rate: float = 0.25,
        drop_path_rate: float = 0.0,
    ):
        rounded = partial(round_channels, multiplier=width)
        super().__init__(
            decode_arch_def([[stage] for stage in MOBILENETV2]), num_classes, max(1280, rounded(1280)), in_chans,
            output_stride=output_stride, act_layer=nn.ReLU6, round_chs_fn=rounded, drop_rate=drop_rate,
            drop_path_rate=drop_path_rate, global_pool=global_pool,
        )  # fmt: skip
        for stage, size in zip(self.blocks, _each(kernel_sizes, len(MOBILENETV2)), strict=True):
            for block in stage:
                last = block.bn2 if isinstance(block, DepthwiseSeparableConv) else block.bn3
                # timm's normalisation ends in an activation; behind the linear projection its place is free.
                last.act = gate(size or kernel_size(last.num_features), "ECAMobileNetV2.kernel_sizes")

    def no_weight_decay(self) -> set[str]:
        return set()


def _each(sizes: Kernels, stages: int) -> Sequence[int]:
    """A kernel size for each stage; 0 where the rule says."""
    if sizes == "adaptive":
        return (0,) * stages
    if isinstance(sizes, str):
        raise MarrowError(f"'{sizes}' is no kernel size; give {stages} odd numbers or 'adaptive'", where="kernel_sizes")
    if len(sizes) != stages:
        raise MarrowError(f"{len(sizes)} kernel sizes for {stages} stages", where="kernel_sizes")
    if 0 in sizes:
        raise MarrowError("the kernel size must be odd, got 0", where="kernel_sizes")
    return sizes


def checkpoint_filter_fn(state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """The released files' names as timm's: attributes called `eca`, and torchvision's layout of MobileNetV2."""
    if isinstance(net, ECAResNet):
        return {k.replace(".eca.", ".se."): v for k, v in state.items()}
    if "features.0.0.weight" not in state:
        return state
    places = [(s, b) for s, stage in enumerate(net.blocks) for b in range(len(stage))]
    return {_mobile_name(k, places): v for k, v in state.items()}


def _mobile_name(name: str, places: list[tuple[int, int]]) -> str:
    first, last = ("conv_stem", "bn1"), ("conv_head", "bn2")
    if block := re.fullmatch(r"features\.(\d+)\.conv\.(\d+)\.(?:([01])\.)?(.+)", name):
        stage, number = places[int(block[1]) - 1]
        steps = ["conv_pw bn1", "conv_dw bn2", "conv_pwl", "bn3", "bn3.act"]
        if stage == 0:  # no expansion before the depthwise convolution
            steps = ["conv_dw bn1", "conv_pw", "bn2", "bn2.act"]
        return f"blocks.{stage}.{number}.{steps[int(block[2])].split()[int(block[3] or 0)]}.{block[4]}"
    if outer := re.fullmatch(r"features\.(\d+)\.([01])\.(.+)", name):
        return f"{(first if outer[1] == '0' else last)[int(outer[2])]}.{outer[3]}"
    return name.replace("classifier.1.", "classifier.")


default_cfgs = generate_default_cfgs({
    **{f"eca_resnet{depth}.untrained": untrained(interpolation="bilinear", first_conv="conv1", classifier="fc")
       for depth in LAYERS},
    "eca_mobilenetv2_100.untrained": untrained(interpolation="bilinear", first_conv="conv_stem", classifier="classifier"),
})  # fmt: skip


def _resnet(depth: int, pretrained: bool, **kwargs: Any) -> ECAResNet:
    block = BasicBlock if depth < 50 else Bottleneck
    sizes = dict(block=block, layers=LAYERS[depth], kernel_sizes=RELEASED[depth])
    return build_model_with_cfg(
        ECAResNet,
        f"eca_resnet{depth}",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **dict(sizes, **kwargs),
    )


@register_model
def eca_resnet18(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """ECA-Net18: 11.69 M parameters, 44 of them in gates."""
    return _resnet(18, pretrained, **kwargs)


@register_model
def eca_resnet34(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """ECA-Net34: 21.80 M parameters, 72 of them in gates."""
    return _resnet(34, pretrained, **kwargs)


@register_model
def eca_resnet50(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """ECA-Net50: 25.56 M parameters, 80 of them in gates (86 with kernel_sizes="adaptive")."""
    return _resnet(50, pretrained, **kwargs)


@register_model
def eca_resnet101(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """ECA-Net101: 44.55 M parameters, 157 of them in gates."""
    return _resnet(101, pretrained, **kwargs)


@register_model
def eca_resnet152(pretrained: bool = False, **kwargs: Any) -> ECAResNet:
    """ECA-Net152: 60.19 M parameters, 234 of them in gates."""
    return _resnet(152, pretrained, **kwargs)


@register_model
def eca_mobilenetv2_100(pretrained: bool = False, **kwargs: Any) -> ECAMobileNetV2:
    """ECA-Net on MobileNetV2: 3.50 M parameters, 31 of them in gates."""
    return build_model_with_cfg(
        ECAMobileNetV2,
        "eca_mobilenetv2_100",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3, 4), feature_cls="getter"),
        **kwargs,
    )
