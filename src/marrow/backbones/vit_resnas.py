"""ViT-Res: a vision transformer in three stages whose maps shrink beside a shortcut, and three such nets that a search found.

Liao, Karaman, Sze, "Searching for Efficient Multi-Stage Vision Transformers", arXiv 2109.00642, 2021. A convolutional
stem cuts the patches, a class token runs through all stages, and between stages every second row and column goes (sec. 3.1).
Shapes in comments are those of a 224 x 224 image in ViT-ResNAS-Tiny.
"""

from __future__ import annotations

from typing import Any, Sequence

import torch
from timm.layers import trunc_normal_
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..core.errors import MarrowError
from .map_net import stages_asked_for, untrained
from .vit_res_blocks import EPS, Block, ResidualSpatialReduction, Size, Stem, as_map, positions

__all__ = ["VitRes"]

LEARNED_TOKENS = ("pos_embed", "cls_token", "dist_token")


class Stage(nn.Module):
    """The stem, or a reduction, and blocks."""

    def __init__(self, first: nn.Module, blocks: Sequence[Block]):
        super().__init__()
        self.first, self.grad_checkpointing = first, False
        self.blocks = nn.ModuleList(blocks)

    def forward(self, *x: Any) -> Tensor:
        tokens = self.first(*x)
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                tokens = checkpoint(block, tokens, use_reentrant=False)
            else:
                tokens = block(tokens)
        return tokens


class VitRes(nn.Module):
    """Three stages at strides patch_size, 2 * patch_size and 4 * patch_size; a head on the class token.

    Sides of images are multiples of the last stride, not only those of the size it was built for. dims, head_dims: one a
    stage. heads, hidden: one a block. patch_output: in training a second head says the class of every patch, and `forward`
    gives both (B, classes) and (B, H / 56 * W / 56, classes). distilled: a distillation token runs behind the class token, the
    head reads both joined, and `teach/hard_distillation.py` teaches each its half of it. The first channels, heads and hidden units of a net are a net
    of this kind (`vit_resnas_space.py`). Maps are the blocks' output, before the last normalisation.
    """

    tiny = {
        "patch_size": 4, "dims": (8, 16, 32), "head_dims": (4, 4, 4), "heads": ((2, 2), (2, 2), (4, 4)),
        "hidden": ((16, 16), (24, 24), (32, 32)), "num_classes": 10,
    }  # fmt: skip

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 14,
        dims: Sequence[int] = (192, 384, 768),
        head_dims: Sequence[int] = (64, 64, 64),
        heads: Sequence[Sequence[int]] = ((3,) * 4, (6,) * 4, (12,) * 4),
        hidden: Sequence[Sequence[int]] = ((768,) * 4, (1536,) * 4, (3072,) * 4),
        patch_output: bool = False,
        distilled: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "token",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ):
        super().__init__()
        self.patch_size, self.multiple = patch_size, 4 * patch_size
        self.size: Size = (img_size, img_size) if isinstance(img_size, int) else (img_size[0], img_size[1])
        self._check_arguments(dims, head_dims, heads, hidden)
        self._check(*self.size, "vit_resnas.img_size")
        self.dims, self.head_dims = tuple(dims), tuple(head_dims)
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.drop_path_rate, self.patch_output, self.distilled = drop_path_rate, patch_output, distilled
        self.num_features, self.num_prefix_tokens = dims[-1], 1 + distilled
        # With two tokens the first channels of what the head reads are not those of a narrower net.
        self.also_gives = frozenset({"distillation-token" if distilled else "slimmable"})
        depths = [len(stage) for stage in heads]
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu").split(depths)
        self.stages = nn.ModuleList()
        for i, dim in enumerate(dims):
            grid = (self.size[0] // patch_size // 2**i, self.size[1] // patch_size // 2**i)
            first: nn.Module = Stem(in_chans, dim, patch_size, grid, distilled)
            if i:
                first = ResidualSpatialReduction(dims[i - 1], dim, grid, self.num_prefix_tokens)
            self.stages.append(Stage(first, [Block(dim, h, head_dims[i], m, rate) for h, m, rate in
                                             zip(heads[i], hidden[i], rates[i].tolist())]))  # fmt: skip
        self.norm = nn.LayerNorm(dims[-1], eps=EPS)
        self.feature_info = [
            dict(num_chs=dim, reduction=patch_size * 2**i, module=f"stages.{i}") for i, dim in enumerate(dims)
        ]
        self.reset_classifier(num_classes, global_pool)
        self.apply(_init)
        for name, table in self.named_parameters():
            if name.endswith(LEARNED_TOKENS):
                trunc_normal_(table, std=0.02)

    def _check_arguments(self, dims: Sequence[int], head_dims: Sequence[int], heads: Any, hidden: Any) -> None:
        if not len(dims) == len(head_dims) == len(heads) == len(hidden) == 3:
            raise MarrowError("three stages are needed in dims, head_dims, heads and hidden", where="vit_resnas")
        if [len(stage) for stage in heads] != [len(stage) for stage in hidden]:
            raise MarrowError("heads and hidden name different numbers of blocks", where="vit_resnas.hidden")
        if list(dims) != sorted(dims):
            raise MarrowError(
                f"a stage is as wide as the one before, or wider; got {tuple(dims)}", where="vit_resnas.dims"
            )
        if self.patch_size < 2 or self.patch_size % 2:
            raise MarrowError(f"the stem halves the image, so patches have an even side, not {self.patch_size}",
                              where="vit_resnas.patch_size")  # fmt: skip

    def _check(self, height: int, width: int, where: str) -> None:
        if odd := [side for side in (height, width) if side % self.multiple or side == 0]:
            near = max(1, round(odd[0] / self.multiple)) * self.multiple
            raise MarrowError(f"ViT-Res needs height and width divisible by {self.multiple}, got {odd[0]}; {near} would do",
                              where=where)  # fmt: skip

    def no_weight_decay(self) -> set[str]:
        return {name for name, _ in self.named_parameters() if name.endswith(LEARNED_TOKENS)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        if coarse:
            return dict(stem=r"^stages\.0\.first", blocks=[(r"^stages\.(\d+)", None)])
        # What leads into a stage belongs to its first block.
        blocks = [(r"^stages\.(\d+)\.blocks\.(\d+)", None), (r"^stages\.(\d+)\.first", (0,))]
        return dict(stem=r"^stages\.0\.first", blocks=blocks)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        for stage in self.stages:
            stage.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is not None:
            if global_pool not in ("token", "avg", ""):
                raise MarrowError(f"'{global_pool}' is none of 'token', 'avg', ''", where="vit_resnas.global_pool")
            self.global_pool = global_pool
        self.head_hidden_size = self.num_features * (self.num_prefix_tokens if self.global_pool == "token" else 1)
        self.head = nn.Linear(self.head_hidden_size, num_classes) if num_classes else nn.Identity()
        self.patch_head = nn.Linear(self.num_features, num_classes) if num_classes and self.patch_output else None

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
        self._check(x.shape[-2], x.shape[-1], "vit_resnas.image")
        size = (x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size)
        maps, tokens = [], x
        for i, stage in enumerate(self.stages[: last + 1] if stop_early else self.stages):
            tokens = stage(tokens, size) if i else stage(tokens)  # (B, 257, 176), (B, 65, 352), (B, 17, 704)
            size = (size[0] // 2, size[1] // 2) if i else size
            if i in taken:
                patches = (self.norm(tokens) if norm and i == 2 else tokens)[:, self.num_prefix_tokens :]
                maps.append(as_map(patches, size))
        return maps if intermediates_only else (self.norm(tokens), maps)

    def prune_intermediate_layers(
        self, indices: int | list[int] | tuple[int, ...] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Take out the stages behind the last one asked for, and what only the classifier needs."""
        taken, last = stages_asked_for(self, indices, len(self.stages), "NCHW")
        self.stages = self.stages[: last + 1]
        if prune_norm or last < 2:
            self.norm = nn.Identity()
        if prune_head or last < 2:
            self.num_features = self.feature_info[last]["num_chs"]
            self.reset_classifier(0, "")
        return taken

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, P + H / 56 * W / 56, C): the class token first, then that of distillation if there is one."""
        return self.forward_intermediates(x, indices=())[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        if self.global_pool:
            first, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
            x = first.flatten(1) if self.global_pool == "token" else patches.mean(1)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Any:
        tokens = self.forward_features(x)
        logits = self.forward_head(tokens)
        if self.patch_head is None or not self.training:
            return logits
        return logits, self.patch_head(tokens[:, self.num_prefix_tokens :])


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)


def checkpoint_filter_fn(state: dict[str, Tensor], net: VitRes) -> dict[str, Tensor]:
    """Position tables of another size, of a square grid, become those of the net's."""
    resized = dict(state)
    for i, stage in enumerate(net.stages):
        name, prefix = f"stages.{i}.first.pos_embed", 0 if i else net.num_prefix_tokens
        if name in state and state[name].shape[1] != stage.first.pos_embed.shape[1]:
            side = int((state[name].shape[1] - prefix) ** 0.5)
            resized[name] = positions(state[name], (side, side), stage.first.grid, prefix)
    return resized


# Heads and hidden units of each block (sec. 4.2).
SIZES: dict[str, dict[str, Any]] = {
    "vit_res_tiny": {},
    "vit_resnas_tiny": dict(
        dims=(176, 352, 704), head_dims=(32, 48, 64),
        heads=((3, 3, 3, 4, 4), (10, 8, 8, 8, 10, 10), (10, 10, 10, 8, 8)),
        hidden=((704, 576, 640, 576, 704), (1408, 1408, 1280, 1408, 1280, 1024), (2560, 1792, 2816, 2816, 2560)),
    ),
    "vit_resnas_small": dict(
        dims=(220, 440, 880), head_dims=(32, 48, 64),
        heads=((5, 5, 7, 5, 5, 5), (10, 10, 10, 10, 12, 12), (16, 12, 16, 12, 14)),
        hidden=((880, 880, 800, 720, 720, 720), (1760, 1440, 1920, 1600, 1600, 1440), (3200, 3200, 2880, 2240, 2560)),
    ),
    "vit_resnas_medium": dict(
        dims=(240, 640, 880), head_dims=(32, 48, 64),
        heads=((7, 6, 7, 8, 7, 8, 6), (10, 14, 14, 16, 14, 16, 16), (16, 10, 16, 12, 16, 14)),
        hidden=((960, 960, 800, 960, 880, 880, 800), (1120, 1760, 1920, 1760, 1440, 1760, 1920),
                (3200, 3840, 3840, 3200, 3520, 3520)),
    ),
}  # fmt: skip

default_cfgs = generate_default_cfgs({
    f"{name}.untrained": untrained(pool_size=None, crop_pct=0.9, fixed_input_size=True,
                                   first_conv="stages.0.first.conv1.0", classifier="head")
    for name in SIZES
})  # fmt: skip


def _create(name: str, pretrained: bool, **kwargs: Any) -> VitRes:
    return build_model_with_cfg(
        VitRes,
        name,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=(0, 1, 2), feature_cls="getter"),
        **{**SIZES[name], **kwargs},
    )


@register_model
def vit_res_tiny(pretrained: bool = False, **kwargs: Any) -> VitRes:
    """42.0 M parameters, 1.79 G MACs at 224 x 224; made by hand, not found."""
    return _create("vit_res_tiny", pretrained, **kwargs)


@register_model
def vit_resnas_tiny(pretrained: bool = False, **kwargs: Any) -> VitRes:
    """40.8 M parameters, 1.78 G MACs."""
    return _create("vit_resnas_tiny", pretrained, **kwargs)


@register_model
def vit_resnas_small(pretrained: bool = False, **kwargs: Any) -> VitRes:
    """63.7 M parameters, 2.85 G MACs."""
    return _create("vit_resnas_small", pretrained, **kwargs)


@register_model
def vit_resnas_medium(pretrained: bool = False, **kwargs: Any) -> VitRes:
    """96.4 M parameters, 4.51 G MACs."""
    return _create("vit_resnas_medium", pretrained, **kwargs)
