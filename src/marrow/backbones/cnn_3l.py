"""CNN_3L, the shallow net for patches of single cells in Tripathi and Singh, "Cell Nuclei Classification in
Histopathological Images using Hybrid OLConvNet", ACM TOMM 2020.

Three 3 x 3 convolutions with 32, 64 and 128 channels, each with a ReLU, halved by maximum between them; the last map is
flattened into a layer of 256, whose values are the features.

Deviation: the paper's text gives the name and the three learned convolutions; widths, kernels, dropout and the layer of
256 are a reading of it, made for its patches of 27 x 27.
"""

from __future__ import annotations

from typing import Any

from timm.layers import SelectAdaptivePool2d, to_2tuple
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import MarrowError
from .map_net import MapNet, untrained

__all__ = ["CNN3L"]

HALVED = 2  # times between the picture and the last map


class CNN3L(MapNet):
    """Images (B, 3, H, W). The flattened layer fits `img_size`; maps of another size are averaged to its grid.

    global_pool: "flatten" keeps the grid, timm's names average it away before the layer, "" gives the map itself.
    """

    tiny = {"widths": (8, 12, 16), "hidden": 24, "img_size": 32, "num_classes": 10}

    def __init__(
        self,
        img_size: int | tuple[int, int] = 27,
        widths: tuple[int, int, int] = (32, 64, 128),
        hidden: int = 256,
        num_classes: int = 4,
        in_chans: int = 3,
        global_pool: str = "flatten",
        drop_rate: float = 0.5,
    ):
        super().__init__()
        height, width = to_2tuple(img_size)
        if min(height, width) < 2**HALVED:
            raise MarrowError(f"{height} x {width} pixels are halved twice; each side needs {2**HALVED} at least",
                              where="cnn_3l.img_size")  # fmt: skip
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grid = (height // 2**HALVED, width // 2**HALVED)
        for i, (before, after) in enumerate(zip((in_chans, *widths), widths)):
            halve = [nn.MaxPool2d(2)] if i else []
            setattr(self, f"stage{i + 1}", nn.Sequential(*halve, nn.Conv2d(before, after, 3, padding=1), nn.ReLU()))
        self.feature_info = [dict(num_chs=c, reduction=2**i, module=f"stage{i + 1}") for i, c in enumerate(widths)]
        self.num_features, self.hidden, self.global_pool = widths[-1], hidden, None
        self.reset_classifier(num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return dict(stem=r"^stage1", blocks=[(r"^stage(\d+)", None), (r"^fc", (99999,))])

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """The layer of `hidden` is made anew only where `global_pool` changes what it reads."""
        self.num_classes = num_classes
        if global_pool not in (None, self.global_pool):
            self.global_pool = global_pool
            self.pool, read = self._pooling(global_pool)
            self.fc = nn.Linear(read, self.hidden) if read else None
        self.head_hidden_size = self.hidden if self.fc is not None else self.num_features
        self.head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()

    def _pooling(self, name: str) -> tuple[nn.Module, int]:
        """What comes before the layer, and how many numbers it hands on; 0: there is no layer."""
        if name == "flatten":
            return Flatten(self.grid), self.num_features * self.grid[0] * self.grid[1]
        pool = SelectAdaptivePool2d(pool_type=name, flatten=bool(name))
        return pool, self.num_features * pool.feat_mult() if name else 0

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        x = self.pool(x)
        if self.fc is not None:
            x = F.dropout(F.relu(self.fc(x)), self.drop_rate, self.training)
        return x if pre_logits else self.head(x)


class Flatten(nn.Module):
    """(B, C, H, W) -> (B, C * h * w) for the grid (h, w) of the layer behind it."""

    def __init__(self, grid: tuple[int, int]):
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        return (x if tuple(x.shape[-2:]) == self.grid else F.adaptive_avg_pool2d(x, self.grid)).flatten(1)


default_cfgs = generate_default_cfgs({
    "cnn_3l.untrained": untrained(
        num_classes=4, input_size=(3, 27, 27), pool_size=(6, 6), crop_pct=1.0, interpolation="bilinear",
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), first_conv="stage1.0", classifier="head",
    )
})  # fmt: skip


@register_model
def cnn_3l(pretrained: bool = False, **kwargs: Any) -> CNN3L:
    """1.27 M parameters at 27 x 27 with four classes, 93 % of them in the layer that reads the flattened map."""
    return build_model_with_cfg(
        CNN3L, "cnn_3l", pretrained, feature_cfg=dict(out_indices=(0, 1, 2), feature_cls="getter"), **kwargs
    )
