"""Which places of two views' maps show the same part of a picture."""

from __future__ import annotations

import torch
from torch import Tensor


def centres(box: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the places of a map lie in the whole picture: x (B, H * W) and y (B, H * W), row by row.

    box: (B, 4) as x0, y0, x1, y1 of the view, in shares of the picture; a mirrored view has x0 > x1.
    """
    x0, y0, x1, y1 = box[:, :, None].unbind(1)
    x = x0 + (torch.arange(width, device=box.device) + 0.5) * (x1 - x0) / width
    y = y0 + (torch.arange(height, device=box.device) + 0.5) * (y1 - y0) / height
    return x[:, None, :].expand(-1, height, -1).flatten(1), y[:, :, None].expand(-1, -1, width).flatten(1)


def positive_pairs(
    box_a: Tensor, box_b: Tensor, size_a: tuple[int, int], size_b: tuple[int, int], ratio: float
) -> Tensor:
    """(B, N_a, N_b) bool: places whose centres are closer than `ratio` times the larger of the two maps' cell diagonals."""
    (xa, ya), (xb, yb) = centres(box_a, *size_a), centres(box_b, *size_b)
    distance = torch.hypot(xa[:, :, None] - xb[:, None, :], ya[:, :, None] - yb[:, None, :])
    diagonal = torch.maximum(_diagonal(box_a, *size_a), _diagonal(box_b, *size_b))
    return distance < ratio * diagonal[:, None, None]


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """Of every place of the maps (B, C, H, W) with every place of the others: (B, N_a, N_b)."""
    return _unit(a).mT @ _unit(b)


def _unit(x: Tensor) -> Tensor:
    x = (x if x.dtype == torch.float64 else x.float()).flatten(2)
    return torch.nn.functional.normalize(x, dim=1)


def _diagonal(box: Tensor, height: int, width: int) -> Tensor:
    return torch.hypot((box[:, 2] - box[:, 0]) / width, (box[:, 3] - box[:, 1]) / height)
