"""What ViT-Res is made of: attention of any width, the convolutional stem, the reduction of the map beside a shortcut."""

from __future__ import annotations

import torch
from timm.layers import DropPath, Mlp, resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

EPS = 1e-6
STEM = 24
Size = tuple[int, int]


class SelfAttention(nn.Module):
    """Attention whose number of heads and width of a head are free, not shares of the tokens' width."""

    def __init__(self, dim: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * heads * head_dim)
        self.proj = nn.Linear(heads * head_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, N, d) each
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each behind its normalisation and beside a shortcut."""

    def __init__(self, dim: int, heads: int, head_dim: int, hidden: int, drop_path: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=EPS)
        self.attn = SelfAttention(dim, heads, head_dim)
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class ConvNormAct(nn.Sequential):
    def __init__(self, width_in: int, width: int, stride: int):
        super().__init__(
            nn.Conv2d(width_in, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )


class Stem(nn.Module):
    """Three convolutions, the last two beside a shortcut, then patches; the tokens with their positions (B, P + N, C).

    P is 1, the class token, or 2 with a distillation token behind it.
    """

    def __init__(self, width_in: int, dim: int, patch: int, grid: Size, distilled: bool = False):
        super().__init__()
        self.grid, self.prefix = grid, 1 + distilled
        self.conv1 = ConvNormAct(width_in, STEM, stride=2)
        self.conv2 = ConvNormAct(STEM, STEM, stride=1)
        self.conv3 = ConvNormAct(STEM, STEM, stride=1)
        self.proj = nn.Conv2d(STEM, dim, patch // 2, stride=patch // 2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.dist_token = nn.Parameter(torch.zeros(1, 1, dim)) if distilled else None
        self.pos_embed = nn.Parameter(torch.zeros(1, self.prefix + grid[0] * grid[1], dim))

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv1(image)  # (B, 24, 112, 112)
        x = self.proj(x + self.conv3(self.conv2(x)))  # (B, 176, 16, 16)
        size, x = (x.shape[-2], x.shape[-1]), x.flatten(2).transpose(1, 2)
        first = [token.expand(x.shape[0], -1, -1) for token in (self.cls_token, self.dist_token) if token is not None]
        x = torch.cat([*first, x], 1)
        return x + positions(self.pos_embed, self.grid, size, self.prefix)


class ResidualSpatialReduction(nn.Module):
    """Half the rows and columns, and more channels: of the normalised tokens by a convolution, plus the mean of the tokens.

    The mean is that of 2 x 2 tokens, with zeros for the channels that are new; the `prefix` tokens before the patches are
    their own means. Their positions are not in the table.
    """

    def __init__(self, dim_in: int, dim: int, grid: Size, prefix: int = 1):
        super().__init__()
        self.grid, self.widened, self.prefix = grid, dim - dim_in, prefix
        self.norm = nn.LayerNorm(dim_in, eps=EPS)
        self.patch_reduce = nn.Conv2d(dim_in, dim, 3, stride=2, padding=1)
        self.token_transform = nn.Linear(dim_in, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid[0] * grid[1], dim))

    def forward(self, x: Tensor, size: Size) -> Tensor:
        """x: (B, P + H * W, C) with size (H, W), the prefix tokens first; (B, P + H / 2 * W / 2, C')."""
        n, half, first = self.norm(x), (size[0] // 2, size[1] // 2), self.prefix
        patches = self.patch_reduce(as_map(n[:, first:], size)).flatten(2).transpose(1, 2)
        patches = patches + positions(self.pos_embed, self.grid, half, prefix=0)
        changed = torch.cat([self.token_transform(n[:, :first]), patches], 1)
        pooled = F.avg_pool2d(as_map(x[:, first:], size), 2).flatten(2).transpose(1, 2)
        return changed + F.pad(torch.cat([x[:, :first], pooled], 1), (0, self.widened))


def positions(table: Tensor, grid: Size, size: Size, prefix: int) -> Tensor:
    """The table (1, prefix + h * w, C) of a grid (h, w) for a map of another size, bicubically; the first `prefix` stay."""
    if grid == size:
        return table
    return resample_abs_pos_embed(table, list(size), list(grid), num_prefix_tokens=prefix)


def as_map(tokens: Tensor, size: Size) -> Tensor:
    return tokens.transpose(1, 2).unflatten(2, size)
