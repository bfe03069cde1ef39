"""Pyramid Vision Transformer: a transformer whose maps shrink from stage to stage, as those of a convolutional net do.

Wang et al., "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions", ICCV 2021. Four
stages, each: cut the map into patches and embed them (sec. 3.2), add positions, run blocks whose attention reads keys and
values from a map reduced R times on each side (SRA, sec. 3.3, eq. 1-3). Shapes in comments are those of a 224 x 224 image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from timm.layers import DropPath, Mlp, trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..core.errors import MarrowError
from .map_net import stages_asked_for, untrained

__all__ = ["PyramidVisionTransformer"]

Size = tuple[int, int]
PATCHES = (4, 2, 2, 2)
DEPTHS = {"tiny": (2, 2, 2, 2), "small": (3, 4, 6, 3), "medium": (3, 4, 18, 3), "large": (3, 8, 27, 3)}


class SpatialReductionAttention(nn.Module):
    """Queries from every token, keys and values from the map reduced `reduction` times on each side (eq. 2 and 3)."""

    def __init__(self, dim: int, heads: int, reduction: int):
        super().__init__()
        self.heads, self.reduction = heads, reduction
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        if reduction > 1:
            self.sr = nn.Conv2d(dim, dim, reduction, stride=reduction)
            self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """x: (B, H * W, C) with size (H, W); a class token may come along where nothing is reduced."""
        q = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.heads)
        if self.reduction > 1:
            x = self.norm(_tokens(self.sr(_map(x, size))))  # (B, H * W / R^2, C)
        k, v = rearrange(self.kv(x), "b n (two h d) -> two b h n d", two=2, h=self.heads)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(x, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Attention and MLP, each behind its normalisation and beside a shortcut."""

    def __init__(self, dim: int, heads: int, ratio: int, reduction: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = SpatialReductionAttention(dim, heads, reduction)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, dim * ratio)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, size: Size) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches that do not overlap, as tokens (B, H / P * W / P, C)."""

    def __init__(self, width_in: int, dim: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(width_in, dim, patch, stride=patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(_tokens(self.proj(x)))


class Stage(nn.Module):
    """Patch embedding, positions and blocks; a map in, tokens and the size of their map out."""

    def __init__(
        self, width_in: int, dim: int, patch: int, grid: Size, heads: int, ratio: int, reduction: int,
        drop_path: Sequence[float], prefix: int,
    ):  # fmt: skip
        super().__init__()
        self.patch, self.grid, self.prefix, self.grad_checkpointing = patch, grid, prefix, False
        self.patch_embed = PatchEmbed(width_in, dim, patch)
        self.pos_embed = nn.Parameter(torch.zeros(1, prefix + math.prod(grid), dim))
        self.blocks = nn.ModuleList(Block(dim, heads, ratio, reduction, rate) for rate in drop_path)

    def forward(self, x: Tensor, cls_token: Tensor | None = None) -> tuple[Tensor, Size]:
        size = (x.shape[-2] // self.patch, x.shape[-1] // self.patch)
        x = self.patch_embed(x)
        if cls_token is not None:
            x = torch.cat([cls_token.expand(x.shape[0], -1, -1), x], 1)
        x = x + resized(self.pos_embed, self.grid, size, self.prefix)
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, size, use_reentrant=False)
            else:
                x = block(x, size)
        return x, size


class PyramidVisionTransformer(nn.Module):
    """PVT v1 (table 1); images (B, 3, H, W) whose sides are multiples of 32, not only of the size it was built for.

    class_token: as in classification, a token joins the last stage and is what the head reads; without it, as in the
    paper's detectors, the head averages. It moves the last stage's other tokens too, through attention, so maps with and
    without it differ; `features_only` builds without. Maps are the blocks' output, before the last normalisation.
    Deviation: positions are resized wherever the map's height or width differs from the table's. The published code
    compares the number of tokens with that of the first stage, so at 112 x 448 it uses the table of 56 x 56 scrambled.
    """

    tiny = {"dims": (8, 16, 24, 32), "heads": (1, 2, 3, 4), "depths": (1, 1, 1, 1), "num_classes": 10}

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        dims: Sequence[int] = (64, 128, 320, 512),
        heads: Sequence[int] = (1, 2, 5, 8),
        depths: Sequence[int] = (2, 2, 2, 2),
        ratios: Sequence[int] = (8, 8, 4, 4),
        reductions: Sequence[int] = (8, 4, 2, 1),
        num_classes: int = 1000,
        in_chans: int = 3,
        class_token: bool = True,
        global_pool: Literal["token", "avg", ""] | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        if class_token and reductions[-1] != 1:
            raise MarrowError("a class token needs a last stage that reduces nothing", where="pvt.class_token")
        strides = [math.prod(PATCHES[: i + 1]) for i in range(4)]
        # Also a reduced map must come out whole.
        self.multiple = math.lcm(*(s * r for s, r in zip(strides, reductions, strict=True)))
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self._check(height, width, "pvt.img_size")
        for dim, count in zip(dims, heads, strict=True):
            if dim % count:
                raise MarrowError(f"{count} heads do not divide {dim} channels", where="pvt.heads")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.num_features = self.head_hidden_size = dims[-1]
        self.num_prefix_tokens = int(class_token)
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(list(depths))
        self.stages = nn.ModuleList(
            Stage(
                width_in, dims[i], PATCHES[i], (height // strides[i], width // strides[i]), heads[i], ratios[i],
                reductions[i], rates[i].tolist(), prefix=self.num_prefix_tokens if i == 3 else 0,
            )
            for i, width_in in enumerate((in_chans, *dims[:-1]))
        )  # fmt: skip
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dims[-1])) if class_token else None
        self.norm = nn.LayerNorm(dims[-1], eps=1e-6)
        self.feature_info = [
            dict(num_chs=dim, reduction=stride, module=f"stages.{i}")
            for i, (dim, stride) in enumerate(zip(dims, strides))
        ]
        self.reset_classifier(num_classes, global_pool or ("token" if class_token else "avg"))
        self.apply(_init)
        for name, table in self.named_parameters():
            if name.endswith(("pos_embed", "cls_token")):
                trunc_normal_(table, std=0.02)

    def _check(self, height: int, width: int, where: str) -> None:
        if odd := [side for side in (height, width) if side % self.multiple or side == 0]:
            raise MarrowError(f"PVT needs height and width divisible by {self.multiple}, got {odd[0]}; pad the batch",
                              where=where)  # fmt: skip

    def no_weight_decay(self) -> set[str]:
        return {"cls_token"}  # the position tables decay, as in the paper's training

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        block = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.blocks\.(\d+)"
        return dict(
            stem=r"^stages\.0\.(?:patch_embed|pos_embed)",
            # What leads into a stage belongs to its first block.
            blocks=[
                (block, None),
                (r"^stages\.(\d+)\.(?:patch_embed|pos_embed)", (0,)),
                (r"^cls_token", (3,) if coarse else (3, 0)),
            ],
        )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            if global_pool not in ("avg", "") and not (global_pool == "token" and self.num_prefix_tokens):
                known = "'token', 'avg', ''" if self.num_prefix_tokens else "'avg', ''"
                raise MarrowError(f"'{global_pool}' is none of {known}", where="pvt.global_pool")
            self.global_pool = global_pool
        self.head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | tuple[int, ...] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """The maps of the stages asked for, after the normalised last tokens unless `intermediates_only`.

        norm: also normalise the last stage's map, as what the head reads is.
        """
        taken, last = stages_asked_for(self, indices, len(self.stages), output_fmt)
        self._check(x.shape[-2], x.shape[-1], "pvt.image")
        maps, tokens = [], x
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            tokens, size = stage(x, self.cls_token if i == 3 else None)
            x = _map(tokens[:, stage.prefix :], size)  # (B, 64, 56, 56), ..., (B, 512, 7, 7)
            if i in taken:
                maps.append(_map(self.norm(tokens)[:, stage.prefix :], size) if norm and i == 3 else x)
        return maps if intermediates_only else (self.norm(tokens), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take out the stages behind the last one asked for, and what only the classifier needs."""
        taken, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        if prune_norm or last < 3:
            self.norm = nn.Identity()
        if last < 3:
            self.cls_token, self.num_prefix_tokens = None, 0
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or last < 3:
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, 1 + H / 32 * W / 32, C): the class token first, if there is one."""
        return self.forward_intermediates(x, indices=())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            x = x[:, 0] if self.global_pool == "token" else x[:, self.num_prefix_tokens :].mean(1)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def resized(table: Tensor, grid: Size, size: Size, prefix: int) -> Tensor:
    """Positions (1, prefix + h * w, C) of a grid (h, w) for a map of another size, bilinearly; the first `prefix` stay."""
    if grid == size:
        return table
    grown = F.interpolate(_map(table[:, prefix:].float(), grid), size=size, mode="bilinear", align_corners=False)
    return torch.cat([table[:, :prefix], _tokens(grown).to(table.dtype)], 1)


def _map(tokens: Tensor, size: Size) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)


def _tokens(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state: dict[str, Tensor], net: PyramidVisionTransformer) -> dict[str, Tensor]:
    """The published names (`patch_embed1`, `pos_embed1`, `block1.0`) as ours, with positions of the net's size.

    A net without a class token leaves it and its position out.
    """
    ours = {"patch_embed": "patch_embed", "pos_embed": "pos_embed", "block": "blocks"}
    renamed = {
        re.sub(r"^(patch_embed|pos_embed|block)(\d)", lambda m: f"stages.{int(m[2]) - 1}.{ours[m[1]]}", name): value
        for name, value in state.items()
        if name != "cls_token" or net.cls_token is not None
    }
    for i, stage in enumerate(net.stages):
        name = f"stages.{i}.pos_embed"
        if name in renamed and renamed[name].shape != stage.pos_embed.shape:
            table, side = renamed[name], math.isqrt(renamed[name].shape[1])
            own = table[
                :, table.shape[1] - side * side - stage.prefix :
            ]  # without a class token's, if the net has none
            renamed[name] = resized(own, (side, side), stage.grid, stage.prefix)
    return renamed


def _cfg() -> dict[str, Any]:
    return untrained(pool_size=None, crop_pct=0.9, fixed_input_size=True, first_conv="stages.0.patch_embed.proj",
                     classifier="head")  # fmt: skip


default_cfgs = generate_default_cfgs({f"pvt_{size}.untrained": _cfg() for size in DEPTHS})


def _create(size: str, pretrained: bool, **kwargs: Any) -> PyramidVisionTransformer:
    sizes = dict(depths=DEPTHS[size], class_token=not kwargs.get("features_only", False))
    return build_model_with_cfg(
        PyramidVisionTransformer,
        f"pvt_{size}",
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2, 3), feature_cls="getter"),
        **dict(sizes, **kwargs),
    )


@register_model
def pvt_tiny(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """13.2 M parameters, 1.9 G MACs at 224 x 224."""
    return _create("tiny", pretrained, **kwargs)


@register_model
def pvt_small(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """24.5 M parameters, 3.8 G MACs."""
    return _create("small", pretrained, **kwargs)


@register_model
def pvt_medium(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """44.2 M parameters, 6.7 G MACs."""
    return _create("medium", pretrained, **kwargs)


@register_model
def pvt_large(pretrained: bool = False, **kwargs: Any) -> PyramidVisionTransformer:
    """61.4 M parameters, 9.8 G MACs."""
    return _create("large", pretrained, **kwargs)
