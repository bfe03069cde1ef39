"""The digits of a scene: what each looks like, where it is in every frame, and what that motion is called."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from functools import cached_property
from typing import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

COLOURS = {
    "red": (225, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 235),
    "yellow": (240, 220, 40),
    "purple": (170, 50, 215),
    "cyan": (40, 210, 220),
}
MOTIONS = ("left", "right", "up", "down", "still", "turning")
LEFT, RIGHT, UP, DOWN, STILL, TURNING = range(6)
TILT = 15.0  # degrees to either side
INK = 0.3  # of the darkest stroke: what is fainter does not belong to the digit
TURNS_BACK = 0.25  # how often a digit may run into the border where it has the room not to

Path = tuple[tuple[float, float], ...]  # (top, left) of the square in which a digit is drawn, for each frame


@dataclasses.dataclass(frozen=True)
class Thing:
    """One digit. which: its number among the real ones; side: of the square that it is drawn in; tilt: degrees."""

    which: int
    digit: int
    colour: int
    side: int
    tilt: float
    path: Path

    @cached_property
    def motion(self) -> int:
        return motion_of(self.path)


def motion_of(path: Path) -> int:
    """The number of the word in `MOTIONS`; a direction where every step goes at least twice as far along it as aside."""
    steps = [(y1 - y0, x1 - x0) for (y0, x0), (y1, x1) in itertools.pairwise(path)]
    if all(step == (0, 0) for step in steps):
        return STILL
    for motion, (down, right) in {LEFT: (0, -1), RIGHT: (0, 1), UP: (-1, 0), DOWN: (1, 0)}.items():
        if all(
            dy * down + dx * right >= 2 * abs(dy * right + dx * down) and dy * down + dx * right > 0 for dy, dx in steps
        ):
            return motion
    return TURNING


@dataclasses.dataclass(frozen=True)
class Rules:
    """How scenes are laid out; the fields are arguments of `DigitScenes`."""

    size: tuple[int, int]
    objects: tuple[int, int]
    side: tuple[int, int]
    speed: tuple[int, int]
    hidden: float
    frames: int
    whole_pixels: bool
    leave: bool


def drawn_path(rng: random.Random, rules: Rules, side: int) -> Path:
    """A digit that stands, or moves evenly in one of four directions and turns around at the border.

    With `leave` the border at which it turns lies so far outside that for about two frames nothing of it is seen.
    """
    motion = rng.choice((LEFT, RIGHT, UP, DOWN, STILL)) if rules.frames > 1 else STILL
    speed, aside = 0.0, 0.0
    if motion != STILL and rules.whole_pixels:
        speed = rng.randint(*rules.speed)
        aside = rng.randint(-(speed // 2), speed // 2)
    elif motion != STILL:
        speed = rng.uniform(*rules.speed)
        aside = rng.uniform(-speed / 2, speed / 2)
    steps = {LEFT: (aside, -speed), RIGHT: (aside, speed), UP: (-speed, aside), DOWN: (speed, aside), STILL: (0, 0)}
    outside = side + math.ceil(speed) if rules.leave and motion != STILL else 0
    straight = rng.random() >= TURNS_BACK and not rules.leave
    walls = [(-outside, edge - side + outside) for edge in rules.size]
    axes = [_along(rng, *wall, step, rules, straight) for wall, step in zip(walls, steps[motion])]
    return tuple(zip(*axes))


def _along(rng: random.Random, low: int, high: int, step: float, rules: Rules, straight: bool) -> list[float]:
    """Places between two walls, from one that is drawn; straight: such that no wall is met, if there is room."""
    travel = step * (rules.frames - 1)
    first, last = low - min(0, travel), high - max(0, travel)
    if not straight or first > last:
        first, last = low, high
    start = rng.randint(round(first), round(last)) if rules.whole_pixels else rng.uniform(first, last)
    return [reflected(start + step * t, low, high) for t in range(rules.frames)]


def reflected(place: float, low: float, high: float) -> float:
    """Where something is that would be at `place`, had it not turned around at the walls."""
    if high == low:
        return low
    away = (place - low) % (2 * (high - low))
    return low + min(away, 2 * (high - low) - away)


def glyph(digit: Tensor, side: int, tilt: float, down: float = 0.0, right: float = 0.0) -> np.ndarray:
    """The strokes (side + 1, side + 1) in 0..1 of a digit (8, 8), moved by less than a pixel, tilted clockwise."""
    cells = side + 1
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    turn = torch.tensor([[cos, sin], [-sin, cos]])
    moved = torch.tensor([1 - 2 * right, 1 - 2 * down]) / side
    theta = torch.cat([turn * cells / side, (turn @ moved)[:, None]], 1)[None]
    grid = affine_grid(theta, [1, 1, cells, cells], align_corners=False)
    return grid_sample(digit[None, None], grid, align_corners=False)[0, 0].numpy()


def stamps(thing: Thing, digits: Tensor) -> Sequence[tuple[int, int, np.ndarray]]:
    """(top, left, strokes) in whole pixels for each frame; digits: all the real ones, (N, 8, 8) in 0..1."""
    parts: dict[tuple[float, float], np.ndarray] = {}
    found = []
    for y, x in thing.path:
        top, left = math.floor(y), math.floor(x)
        part = (y - top, x - left)
        if part not in parts:
            parts[part] = glyph(digits[thing.which], thing.side, thing.tilt, *part)
        found.append((top, left, parts[part]))
    return found
