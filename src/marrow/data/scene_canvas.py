"""What lies behind the digits of a scene, and how they are painted on it."""

from __future__ import annotations

import math
import random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..core.source import Source
from .scene_layout import NOBODY, Layout
from .scene_objects import COLOURS
from .views import cut, resize

TEXTURES = ("noise", "stripes", "gradient", "checkers")
GREY, TINT, GRAIN = (30, 150), 12, 4.0  # all in levels of 255; dull, so that a colour word means a digit
LARGEST_CLUTTER = 3


def textured(rng: random.Random, size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8: two dull colours mixed by a pattern, with a few strokes across it and some grain."""
    grain = np.random.default_rng(rng.getrandbits(63))
    one, other = _dull(rng), _dull(rng)
    mix = _pattern(rng, grain, rng.choice(TEXTURES), size)
    picture = one[:, None, None] + mix * (other - one)[:, None, None]
    for _ in range(rng.randint(0, LARGEST_CLUTTER)):
        picture[:, _stroke(rng, size)] = _dull(rng)[:, None]
    picture = picture + grain.normal(0, GRAIN, size)
    return torch.from_numpy(picture.round().clip(0, 255).astype(np.uint8))


def cropped(rng: random.Random, backgrounds: Source, size: tuple[int, int]) -> Tensor:
    """(3, H, W) uint8: a part of a picture, which is enlarged where it does not cover the canvas."""
    picture = backgrounds[rng.randrange(len(backgrounds))]["image"]
    height, width = picture.shape[-2:]
    larger = max(size[0] / height, size[1] / width)
    if larger > 1:
        height, width = max(size[0], round(height * larger)), max(size[1], round(width * larger))
        picture = resize(picture, (height, width))
    return cut(picture, rng.randint(0, height - size[0]), rng.randint(0, width - size[1]), *size)


def painted(behind: Tensor, layout: Layout) -> Tensor:
    """(T, 3, H, W) uint8. Outlines are hard: a pixel belongs to one digit or to what is behind them."""
    colours = np.array([list(COLOURS.values())[thing.colour] for thing in layout.things], np.float32)
    light = 0.5 + 0.5 * layout.strokes[..., None]
    digits = (colours[layout.owner] * light).round().astype(np.uint8)  # (T, H, W, 3)
    frames = np.where(layout.owner[..., None] == NOBODY, behind.permute(1, 2, 0).numpy(), digits)
    return torch.from_numpy(frames).permute(0, 3, 1, 2).contiguous()


def _dull(rng: random.Random) -> np.ndarray:
    grey = rng.uniform(*GREY)
    return np.array([grey + rng.uniform(-TINT, TINT) for _ in range(3)])


def _pattern(rng: random.Random, grain: np.random.Generator, kind: str, size: tuple[int, int]) -> np.ndarray:
    """(H, W) in 0..1"""
    rows, columns = np.mgrid[: size[0], : size[1]]
    if kind == "noise":
        coarse = torch.from_numpy(grain.random((1, 1, rng.randint(3, 8), rng.randint(3, 8))))
        return interpolate(coarse, size, mode="bilinear", align_corners=True)[0, 0].numpy()
    angle = rng.uniform(0, math.pi)
    along = columns * math.cos(angle) + rows * math.sin(angle)
    if kind == "gradient":
        return (along - along.min()) / max(np.ptp(along), 1.0)
    period, phase = rng.uniform(6, 16), rng.uniform(0, 2 * math.pi)
    if kind == "stripes":
        return 0.5 + 0.5 * np.sin(2 * math.pi * along / period + phase)
    across = rows * math.cos(angle) - columns * math.sin(angle)
    return ((along // period + across // period) % 2).astype(np.float64)


def _stroke(rng: random.Random, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the pixels within a pixel of a straight line between two places."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    (y, x), (down, right) = ((rng.uniform(0, size[0]), rng.uniform(0, size[1])) for _ in range(2))
    down, right = down - y, right - x
    along = ((rows - y) * down + (columns - x) * right) / max(down**2 + right**2, 1e-9)
    along = along.clip(0, 1)
    return np.hypot(rows - y - along * down, columns - x - along * right) < 1
