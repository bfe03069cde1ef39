"""Pictures mixed in pairs so that every patch keeps a label of its own: half are pasted into, half are blended."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..core.errors import MarrowError

BLEND = 0.8  # of the beta distribution that shares of blended pictures are drawn from; those of boxes are uniform


class Mixed(NamedTuple):
    """image (B, C, H, W) float in [0, 1]; shares of the classes in it (B, K), and in each of its patches (B, N, K)."""

    image: Tensor
    shares: Tensor
    patch_shares: Tensor


def mixed(image: Tensor, shares: Tensor, grid: tuple[int, int], rng: torch.Generator) -> Mixed:
    """The "shifted patch token mixup" of Liao et al., arXiv 2109.00642: every picture with a partner in the batch.

    Into the first half of the batch a box of the partner is pasted, whole cells of `grid` taken from another place
    than where they come to lie, and their labels with them. The other half is blended by one share a picture, which
    its patches have too. shares: of the classes in each picture (B, K), one-hot for plain labels.
    """
    rows, columns = grid
    if image.shape[-2] % rows or image.shape[-1] % columns:
        raise MarrowError(f"pictures of {image.shape[-2]} x {image.shape[-1]} have no {rows} x {columns} equal patches",
                          where="mixed patches")  # fmt: skip
    image = image / 255.0 if image.dtype == torch.uint8 else image
    half = -(-len(image) // 2)
    parts = [pasted(image[:half], shares[:half], grid, rng), blended(image[half:], shares[half:], rows * columns, rng)]
    return Mixed(*(torch.cat(part) for part in zip(*parts)))


def pasted(image: Tensor, shares: Tensor, grid: tuple[int, int], rng: torch.Generator) -> Mixed:
    (rows, columns), count = grid, len(image)
    side = (1 - torch.rand(count, generator=rng)).sqrt()
    tall, wide = (side * rows).round().long(), (side * columns).round().long()
    to, origin = (torch.stack([_start(rows, tall, rng), _start(columns, wide, rng)], 1) for _ in range(2))
    i, j = torch.arange(rows)[:, None], torch.arange(columns)
    down, right = (i - to[:, :1, None], j - to[:, 1:, None])  # (B, rows, 1), (B, 1, columns): from the box's corner
    inside = (down >= 0) & (down < tall[:, None, None]) & (right >= 0) & (right < wide[:, None, None])
    taken = (down + origin[:, :1, None]) * columns + right + origin[:, 1:, None]  # the partner's cell for each inside
    cells = torch.arange(rows * columns).expand(count, -1)
    index = torch.where(inside.flatten(1), taken.flatten(1), cells).to(image.device)
    mine = (~inside).flatten(1).to(image.device)  # (B, N)
    patches = _cells(image, grid)
    theirs = patches.flip(0).gather(1, index[:, :, None, None, None].expand_as(patches))
    patches = torch.where(mine[:, :, None, None, None], patches, theirs)
    patch_shares = torch.where(mine[:, :, None], shares[:, None], shares.flip(0)[:, None])
    return Mixed(_whole(patches, grid), patch_shares.mean(1), patch_shares)


def blended(image: Tensor, shares: Tensor, patches: int, rng: torch.Generator) -> Mixed:
    share = beta(BLEND, len(image), rng).to(image)[:, None, None, None]
    picture = share * image + (1 - share) * image.flip(0)
    share = share[:, :, 0, 0].to(shares)
    labels = share * shares + (1 - share) * shares.flip(0)
    return Mixed(picture, labels, labels[:, None].expand(-1, patches, -1))


def _start(cells: int, taken: Tensor, rng: torch.Generator) -> Tensor:
    """A first cell for each stretch of `taken` cells, (B,)."""
    return (torch.rand(len(taken), generator=rng) * (cells - taken + 1)).long()


def beta(alpha: float, count: int, rng: torch.Generator) -> Tensor:
    """Jöhnk's way: torch's own beta distribution takes no generator."""
    found = torch.empty(0)
    while len(found) < count:
        u, v = torch.rand(2, 4 * count + 8, generator=rng, dtype=torch.float64).pow(1 / alpha)
        found = torch.cat([found, (u / (u + v))[(u + v <= 1) & (u + v > 0)].float()])
    return found[:count]


def _cells(image: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, N, C, h, w)"""
    cells = image.unflatten(3, (grid[1], -1)).unflatten(2, (grid[0], -1))  # (B, C, rows, h, columns, w)
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2)


def _whole(cells: Tensor, grid: tuple[int, int]) -> Tensor:
    return cells.unflatten(1, grid).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
