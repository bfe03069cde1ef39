"""ResNets for 32 x 32 images as in He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, sec. 4.2.

Three stages of n basic blocks with 16, 32 and 64 channels, depth 6n + 2. Shortcuts carry no parameters (option A): where
the size halves they take every second pixel and pad the channels with zeros, half in front and half behind.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from .map_net import MapNet, untrained

__all__ = ["CifarResNet"]

CHANNELS = (16, 32, 64)


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions around a parameter-free shortcut."""

    def __init__(self, width_in: int, width: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.stride, self.padding = stride, (width - width_in) // 2

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride > 1:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        x = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(x)) + shortcut)


class CifarResNet(MapNet):
    """`depth` basic blocks in each of three stages; images (B, 3, H, W) of any size from 4 x 4."""

    tiny = {"depth": 2, "num_classes": 10}
    classifier_name = "linear"

    def __init__(
        self, depth: int = 3, num_classes: int = 10, in_chans: int = 3, global_pool: str = "avg", drop_rate: float = 0.0
    ):
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.conv1 = nn.Conv2d(in_chans, CHANNELS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(CHANNELS[0])
        self.act1 = nn.ReLU(inplace=True)
        self.layer1 = _stage(CHANNELS[0], CHANNELS[0], depth, stride=1)
        self.layer2 = _stage(CHANNELS[0], CHANNELS[1], depth, stride=2)
        self.layer3 = _stage(CHANNELS[1], CHANNELS[2], depth, stride=2)
        self.feature_info = [
            dict(num_chs=width, reduction=2**i, module=f"layer{i + 1}") for i, width in enumerate(CHANNELS)
        ]
        self.num_features = CHANNELS[-1]
        self.reset_classifier(num_classes, global_pool)
        for m in self.modules():
            if isinstance(m, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(m.weight)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return dict(stem=r"^conv1|^bn1", blocks=r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)")

    def before_stages(self, x: Tensor) -> Tensor:
        return self.act1(self.bn1(self.conv1(x)))


def _stage(width_in: int, width: int, depth: int, stride: int) -> nn.Sequential:
    return nn.Sequential(BasicBlock(width_in, width, stride), *(BasicBlock(width, width) for _ in range(depth - 1)))


def _cfg() -> dict[str, Any]:
    # The published weights were trained on images normalised as for ImageNet.
    return untrained(num_classes=10, input_size=(3, 32, 32), pool_size=(8, 8), crop_pct=1.0, interpolation="bilinear",
                     first_conv="conv1", classifier="linear")  # fmt: skip


default_cfgs = generate_default_cfgs({f"cifar_resnet{depth}.untrained": _cfg() for depth in (20, 32, 44, 56)})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    return build_model_with_cfg(
        CifarResNet,
        variant,
        pretrained,
        feature_cfg=dict(out_indices=(0, 1, 2), feature_cls="getter"),
        **kwargs,
    )


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.27 M parameters, 41 M MACs at 32 x 32."""
    return _create("cifar_resnet20", pretrained, **{"depth": 3, **kwargs})


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.46 M parameters."""
    return _create("cifar_resnet32", pretrained, **{"depth": 5, **kwargs})


@register_model
def cifar_resnet44(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.66 M parameters."""
    return _create("cifar_resnet44", pretrained, **{"depth": 7, **kwargs})


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """0.86 M parameters."""
    return _create("cifar_resnet56", pretrained, **{"depth": 9, **kwargs})
