"""Reading a picture through overlapping windows and joining what was said about each."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

Size = tuple[int, int]


def places(picture: Size, window: Size, overlap: float) -> list[tuple[int, int]]:
    """Top left corners of the windows, spread evenly; neighbours share at least `overlap` of a window's side."""

    def along(length: int, side: int) -> list[int]:
        step = max(1, side - math.ceil(overlap * side))
        count = 1 + math.ceil((length - side) / step)
        return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]

    return [(top, left) for top in along(picture[0], window[0]) for left in along(picture[1], window[1])]


def windows(x: Tensor, window: Size, corners: list[tuple[int, int]]) -> Tensor:
    """(B, C, H, W) -> (n * B, C, *window), window after window."""
    return torch.stack([x[..., top : top + window[0], left : left + window[1]] for top, left in corners]).flatten(0, 1)


def joined(x: Tensor, picture: Size, corners: list[tuple[int, int]]) -> Tensor:
    """(n * B, C, *window) -> (B, C, *picture): the mean where windows overlap."""
    (height, width), (h, w) = picture, x.shape[-2:]
    edges = [(left, width - left - w, top, height - top - h) for top, left in corners]
    parts = x.unflatten(0, (len(corners), -1)).unbind()  # chunk() would fix the batch size of an exported graph
    total = sum(pad(part, edge) for part, edge in zip(parts, edges))
    count = sum(pad(x.new_ones(1, 1, h, w), edge) for edge in edges)
    return total / count
