"""EMO and its inverted residual mobile block as in Zhang et al., "Rethinking Mobile Block for Efficient Attention-based
Models", ICCV 2023, sec. 3 and tables 1, 2 and 8.

Attention, expansion and a depth-wise convolution stand in one residual (sec. 3.2), so that a stage is one kind of block.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import Any, Mapping, Sequence

import torch
from timm.layers import DropPath, LayerNorm2d, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._efficientnet_blocks import SqueezeExcite
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.errors import MarrowError
from .map_net import MapNet, stages_asked_for, untrained

__all__ = ["EMO", "IRMB"]

EPS = 1e-6  # of every norm, batch norms included
STEM = 24
ATTENDING = (False, False, True, True)


def grid_windows(x: Tensor, window: int, heads: int) -> Tensor:
    """(B, C, H, W) -> (B n1 n2, heads, window^2, C / heads), with n1 = H / window and n2 = W / window.

    A window takes every n1-th row and n2-th column, so it reaches over the whole map: so does the released code, where
    the paper only says window.
    """
    b, c, h, w = x.shape
    n1, n2 = h // window, w // window
    x = x.reshape(b, heads, c // heads, window, n1, window, n2)  # not einops: it fixes the size of an exported graph
    return x.permute(0, 4, 6, 1, 3, 5, 2).reshape(b * n1 * n2, heads, window * window, c // heads)


def from_grid_windows(x: Tensor, window: int, n1: int, n2: int) -> Tensor:
    """The inverse of `grid_windows`."""
    b, heads, _, d = x.shape
    x = x.reshape(b // (n1 * n2), n1, n2, heads, window, window, d)
    return x.permute(0, 3, 6, 4, 1, 5, 2).reshape(b // (n1 * n2), heads * d, window * n1, window * n2)


class IRMB(nn.Module):
    """Inverted residual mobile block (eq. 4): x + shrink(DW(v) + v), v = act(expand(attention(norm(x)))).

    (B, dim_in, H, W) -> (B, dim_out, H / stride, W / stride). Attention mixes the channels before they are expanded,
    which costs `ratio` times less than after. Both skips are there where `skip` holds. Without `ratio` the block has
    neither norm nor expansion; without `head_dim` it has no attention.

    Deviation: maps are padded to multiples of the window and the padding is not masked. So does the released code, and
    its weights were trained that way.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        ratio: float | None,
        *,
        norm: type[nn.Module] = nn.BatchNorm2d,
        act: type[nn.Module] = nn.SiLU,
        head_dim: int | None = None,
        window: int = 7,
        kernel: int = 3,
        stride: int = 1,
        squeeze: bool = False,
        skip: bool = True,
        drop_path: float = 0.0,
    ):
        super().__init__()
        if head_dim and dim_in % head_dim:
            raise MarrowError(f"{dim_in} channels do not divide into heads of {head_dim}", where="IRMB.head_dim")
        if skip and (stride > 1 or dim_in != dim_out):
            raise MarrowError(
                f"a skip needs equal shapes, not {dim_in} -> {dim_out} at stride {stride}", where="IRMB.skip"
            )
        mid = int(dim_in * (ratio or 1))
        self.window, self.heads, self.skip = window, dim_in // head_dim if head_dim else 0, skip
        self.norm = norm(dim_in, eps=EPS) if ratio else nn.Identity()
        self.qk = nn.Conv2d(dim_in, 2 * dim_in, 1) if head_dim else nn.Identity()
        self.v = nn.Sequential(OrderedDict(conv=nn.Conv2d(dim_in, mid, 1), act=act())) if ratio else nn.Identity()
        self.conv_local = nn.Sequential(
            OrderedDict(
                conv=nn.Conv2d(mid, mid, kernel, stride, (kernel - 1) // 2, groups=mid, bias=False),
                norm=nn.BatchNorm2d(mid, eps=EPS),
                act=nn.SiLU(),
            )
        )
        self.se = SqueezeExcite(mid, rd_ratio=1.0, act_layer=act) if squeeze else nn.Identity()
        self.proj = nn.Conv2d(mid, dim_out, 1, bias=False)
        self.drop_path = DropPath(drop_path)

    def attend(self, x: Tensor) -> Tensor:
        """Attention in grid windows, whose values are x itself."""
        height, width = x.shape[-2:]
        n1, n2 = (height + self.window - 1) // self.window, (width + self.window - 1) // self.window
        x = F.pad(x, (0, n2 * self.window - width, 0, n1 * self.window - height))
        q, k = self.qk(x).chunk(2, dim=1)
        q, k, v = (grid_windows(t, self.window, self.heads) for t in (q, k, x))
        x = F.scaled_dot_product_attention(q, k, v)
        return from_grid_windows(x, self.window, n1, n2)[..., :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        v = self.v(self.attend(h) if self.heads else h)
        u = self.se(self.conv_local(v))
        return x + self.drop_path(self.proj(v + u)) if self.skip else self.proj(u)


class EMO(MapNet):
    """A stem and four stages of `IRMB`; images (B, 3, H, W) of any size from the stride of the last stage, 32.

    depths, dims, ratios, head_dims: one a stage. The first block of a stage halves the size, with twice the expansion,
    without attention and without skips; the others attend in the last two stages, whose norm and activation are layer norm
    and GELU in place of batch norm and SiLU.

    stem_stride, window, attention, kernels: as published by default; others are for small images and ablations.
    """

    tiny = {
        "depths": (1, 1, 2, 2),
        "dims": (8, 12, 16, 24),
        "ratios": (2.0, 2.0, 2.0, 2.0),
        "head_dims": (8, 12, 8, 12),
    }

    def __init__(
        self,
        depths: Sequence[int] = (2, 2, 8, 3),
        dims: Sequence[int] = (32, 48, 80, 168),
        ratios: Sequence[float] = (2.0, 2.5, 3.0, 3.5),
        head_dims: Sequence[int] = (16, 16, 20, 21),
        kernels: Sequence[int] = (3, 3, 5, 5),
        window: int = 7,
        stem_stride: int = 2,
        attention: bool = True,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        for name, values in dict(depths=depths, dims=dims, ratios=ratios, head_dims=head_dims, kernels=kernels).items():
            if len(values) != len(ATTENDING):
                raise MarrowError(f"EMO has {len(ATTENDING)} stages, got {tuple(values)}", where=f"EMO.{name}")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        stem = OrderedDict(
            conv=nn.Conv2d(in_chans, STEM, kernels[0], stem_stride, (kernels[0] - 1) // 2),
            norm=nn.BatchNorm2d(STEM, eps=EPS),
            block=IRMB(STEM, STEM, None, kernel=kernels[0], squeeze=True, skip=False),
        )
        self.stages = nn.Sequential(OrderedDict(stage0=nn.Sequential(stem)))
        self.feature_info = [dict(num_chs=STEM, reduction=stem_stride, module="stages.stage0")]
        drops = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").tolist()
        width = STEM
        for i, (dim, ratio) in enumerate(zip(dims, ratios)):
            kind: dict[str, Any] = dict(kernel=kernels[i], window=window)
            kind |= dict(norm=LayerNorm2d, act=nn.GELU) if ATTENDING[i] else dict(norm=nn.BatchNorm2d, act=nn.SiLU)
            blocks = [IRMB(width, dim, 2 * ratio, stride=2, skip=False, **kind)]
            for drop in drops[sum(depths[:i]) + 1 : sum(depths[: i + 1])]:
                head_dim = head_dims[i] if attention and ATTENDING[i] else None
                blocks.append(IRMB(dim, dim, ratio, head_dim=head_dim, drop_path=drop, **kind))
            self.stages.add_module(f"stage{i + 1}", nn.Sequential(*blocks))
            reduction = stem_stride * 2 ** (i + 1)
            self.feature_info.append(dict(num_chs=dim, reduction=reduction, module=f"stages.stage{i + 1}"))
            width = dim
        self.stride, self.num_features = reduction, width
        self.norm = LayerNorm2d(width, eps=EPS)
        self.reset_classifier(num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        blocks = r"^stages\.stage([1-4])" if coarse else r"^stages\.stage([1-4])\.(\d+)"
        return dict(stem=r"^stages\.stage0", blocks=blocks)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes, global_pool)
        if num_classes:
            trunc_normal_(self.head.weight, std=0.02)
            nn.init.zeros_(self.head.bias)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of the stem (0) and the stages (1 to 4) asked for, after the final map unless `intermediates_only`.

        norm: the last stage's map comes behind the final norm, which the other stages do not have.
        """
        taken, last = stages_asked_for(self, indices, len(self.stages), output_fmt)
        if min(x.shape[-2:]) < self.stride:
            height, width = x.shape[-2:]
            raise MarrowError(f"an image of {height} x {width} is smaller than the stride {self.stride}", where="EMO")
        maps = []
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            x = self.through(stage, x)
            behind = self.norm(x) if i == len(self.feature_info) - 1 else x
            if i in taken:
                maps.append(behind if norm else x)
        return maps if intermediates_only else (behind, maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last one asked for, and the classifier with them."""
        taken, last = feature_take_indices(len(self.stages), indices)
        cut = last < len(self.stages) - 1
        self.stages = self.stages[: last + 1]
        self.num_features = self.feature_info[last]["num_chs"]
        if prune_norm or cut:
            self.norm = nn.Identity()
        if prune_head or cut:
            self.reset_classifier(0, "")
        return taken


def checkpoint_filter_fn(state: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """The keys of the published files, which wrap single layers and keep stages beside the rest, as ours."""
    state = state.get("state_dict", state)
    if not any(re.match(r"stage\d\.", key) for key in state):
        return dict(state)
    rules = (
        (r"^stage0\.0\.convs\.0\.0\.", "stage0.conv."),
        (r"^stage0\.0\.convs\.0\.1\.", "stage0.norm."),
        (r"^stage0\.1\.", "stage0.block."),
        (r"^stage", "stages.stage"),
        (r"\b(qk|proj)\.conv\.", r"\1."),
        (r"\bnorm\.norm\.", "norm."),
    )
    renamed = {}
    for key, value in state.items():
        for pattern, ours in rules:
            key = re.sub(pattern, ours, key)
        renamed[key] = value
    return renamed


SIZES: dict[str, dict[str, Any]] = {  # table 8; the head widths are those of the released code
    "emo_1m": dict(depths=(2, 2, 8, 3), dims=(32, 48, 80, 168), ratios=(2.0, 2.5, 3.0, 3.5), head_dims=(16, 16, 20, 21),
                   drop_path_rate=0.04036),
    "emo_2m": dict(depths=(3, 3, 9, 3), dims=(32, 48, 120, 200), ratios=(2.0, 2.5, 3.0, 3.5), head_dims=(16, 16, 20, 20),
                   drop_path_rate=0.05),
    "emo_5m": dict(depths=(3, 3, 9, 3), dims=(48, 72, 160, 288), ratios=(2.0, 3.0, 4.0, 4.0), head_dims=(24, 24, 32, 32),
                   drop_path_rate=0.05),
    "emo_6m": dict(depths=(3, 3, 9, 3), dims=(48, 72, 160, 320), ratios=(2.0, 3.0, 4.0, 5.0), head_dims=(16, 24, 20, 32),
                   drop_path_rate=0.05),
}  # fmt: skip

default_cfgs = generate_default_cfgs(
    {f"{name}.untrained": untrained(first_conv="stages.stage0.conv", classifier="head") for name in SIZES}
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> EMO:
    return build_model_with_cfg(
        EMO,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3, 4), feature_cls="getter"),
        **{**SIZES[variant], **kwargs},
    )


@register_model
def emo_1m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """1.36 M parameters, 255 M MACs at 224 x 224."""
    return _create("emo_1m", pretrained, **kwargs)


@register_model
def emo_2m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """2.38 M parameters, 432 M MACs."""
    return _create("emo_2m", pretrained, **kwargs)


@register_model
def emo_5m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """5.11 M parameters, 892 M MACs."""
    return _create("emo_5m", pretrained, **kwargs)


@register_model
def emo_6m(pretrained: bool = False, **kwargs: Any) -> EMO:
    """6.17 M parameters, 950 M MACs."""
    return _create("emo_6m", pretrained, **kwargs)
