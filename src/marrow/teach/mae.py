"""MAE: a ViT learns to paint the three quarters of a picture that it does not see. The teacher of TinyMIM.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from einops import rearrange
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..data.views import Augment
from ..nn.block_attention import plan_of
from ..nn.loose_tokens import check_hidden, check_loose_tokens, only, seen
from ..nn.map_channels import map_shape
from ..nn.shared_view import resized


def painted(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """What each patch is to become: its pixels of (B, C, H, W) with mean 0 and deviation 1, (B, N, pixels)."""
    patches = rearrange(image, "b c (h p) (w q) -> b (h w) (p q c)", h=grid[0], w=grid[1])
    variance, mean = torch.var_mean(patches, -1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class Decoder(nn.Module):
    """Tokens of the seen patches (B, n, D) in, pixels of all (B, N, pixels) out; hidden ones start as one learned token."""

    def __init__(self, dim: int, grid: tuple[int, int], pixels: int, width: int, depth: int, heads: int):
        super().__init__()
        self.enter, self.hidden = nn.Linear(dim, width), nn.Parameter(torch.zeros(width))
        nn.init.normal_(self.hidden, std=0.02)
        self.register_buffer("positions", build_sincos2d_pos_embed(list(grid), width), persistent=False)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True) for _ in range(depth)))
        self.norm, self.leave = nn.LayerNorm(width), nn.Linear(width, pixels)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        tokens = self.enter(tokens)
        index = places[:, :, None].expand_as(tokens)
        whole = self.hidden.to(tokens.dtype).expand(len(tokens), len(self.positions), -1).scatter(1, index, tokens)
        return self.leave(self.norm(self.blocks(whole + self.positions)))


class MAE(Method):
    """The encoder sees a random quarter of the patches, a light decoder paints the others (sec. 3).

    The loss is the mean squared error of the hidden patches, each normalised to mean 0 and deviation 1. The decoder is
    dropped afterwards.

    mask: the share that is hidden. width, depth, heads: of the decoder; the paper has 512, 8 and 16 and finds one block
    enough for fine-tuning. crop, pad, flip: the view, as in `supervised`.

    Deviations: the decoder does not see the prefix tokens; the encoder's positions are those of the backbone, learned in
    most of timm's; cuts are resized bilinearly.
    """

    reads_labels = False
    needs = {"encoder": {"maps", "qkv", "tokens"}}

    def __init__(
        self,
        encoder: Backbone,
        *,
        mask: float = 0.75,
        width: int = 256,
        depth: int = 2,
        heads: int = 8,
        crop: tuple[float, float] | None = (0.2, 1.0),
        pad: int = 0,
        flip: bool = True,
    ):
        super().__init__()
        patches = plan_of(encoder, "mae.encoder").patches
        check_loose_tokens(encoder, "mae.encoder")
        check_hidden(mask, patches, "mae.mask")
        for name, value in {"width": width, "depth": depth, "heads": heads}.items():
            if value < 1:
                raise MarrowError(f"{value} is below 1, the least that a decoder has", where=f"mae.{name}")
        if width % heads or width % 4:
            raise MarrowError(f"a width of {width} cannot be cut into {heads} heads and four parts of a position",
                              where="mae.width")  # fmt: skip
        self.encoder, self.mask, self.patches = encoder, mask, patches
        self.grid = map_shape(encoder)[1:]
        pixels = encoder.input.channels * encoder.input.size[0] * encoder.input.size[1] // patches
        self.decoder = Decoder(encoder.dim, self.grid, pixels, width, depth, heads)
        self.view = Augment(encoder.input.size, crop=crop, flip=flip, pad=pad)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        image = resized(batch["image"], self.encoder.input)
        places = seen(len(image), self.patches, self.mask, image.device)
        with only(self.encoder, places):
            tokens = self.encoder.features(image).tokens
        error = (self.decoder(tokens, places).float() - painted(image.float(), self.grid)).square().mean(-1)
        hidden = torch.ones_like(error, dtype=torch.bool).scatter(1, places, False)
        return Step({"painting": error[hidden].mean()})

    def views(self) -> Augment:
        return self.view

    def product(self) -> Backbone:
        return self.encoder
