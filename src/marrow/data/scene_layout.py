"""Where the digits of a scene lie, and which of them is seen in each pixel of each frame."""

from __future__ import annotations

import dataclasses
import random
from typing import Sequence

import numpy as np
from torch import Tensor

from .scene_objects import COLOURS, INK, TILT, Rules, Thing, drawn_path, stamps

TRIES = 30  # for one digit, before the whole scene is drawn anew
NOBODY = -1


@dataclasses.dataclass(frozen=True)
class Layout:
    """things from the back to the front; owner (T, H, W): the number of the one seen, or -1; strokes: how dark, 0..1."""

    things: list[Thing]
    owner: np.ndarray
    strokes: np.ndarray


def draw_layout(
    rng: random.Random, rules: Rules, digits: Tensor, pool: Sequence[tuple[int, int]], ease: float
) -> Layout | None:
    """One scene, or None where a digit found no place.

    pool: (number, digit) of the real ones to choose from. ease: 0..1, how far the largest side is brought down to the
    smallest.
    """
    low, high = rules.side
    high -= round(ease * (high - low))
    table = _Table(rules, digits)
    for _ in range(rng.randint(*rules.objects)):
        for _ in range(TRIES):
            which, digit = rng.choice(pool)
            colour, side, tilt = rng.randrange(len(COLOURS)), rng.randint(low, high), rng.uniform(-TILT, TILT)
            if table.put(Thing(which, digit, colour, side, tilt, drawn_path(rng, rules, side))):
                break
        else:
            return None
    return Layout(table.things, table.owner, table.strokes)


class _Table:
    """The canvas, with one digit put on the others after another."""

    def __init__(self, rules: Rules, digits: Tensor):
        self.rules, self.digits = rules, digits
        self.things: list[Thing] = []
        shape = (rules.frames, *rules.size)
        self.owner, self.strokes = np.full(shape, NOBODY, np.int16), np.zeros(shape, np.float32)
        self.whole = np.zeros((0, rules.frames), np.int64)  # of each digit its pixels inside the canvas, hidden or not

    def put(self, thing: Thing) -> bool:
        """Whether it may lie there, and if so, it does.

        No digit may then be hidden by more than is allowed, each must be seen in some frame, and in one at least half
        of it must be inside the canvas.
        """
        owner, strokes = self.owner.copy(), self.strokes.copy()
        whole, largest = np.zeros(self.rules.frames, np.int64), 0
        height, width = self.rules.size
        for t, (top, left, drawn) in enumerate(stamps(thing, self.digits)):
            largest = max(largest, int((drawn > INK).sum()))
            rows = slice(max(top, 0), min(top + len(drawn), height))
            columns = slice(max(left, 0), min(left + len(drawn), width))
            if rows.start >= rows.stop or columns.start >= columns.stop:
                continue
            part = drawn[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            ink = part > INK
            owner[t, rows, columns][ink] = len(self.things)
            strokes[t, rows, columns][ink] = part[ink]
            whole[t] = ink.sum()
        if 2 * whole.max() < largest:
            return False
        pixels = np.concatenate([self.whole, whole[None]])
        seen = np.stack([np.bincount(frame.ravel() + 1, minlength=len(pixels) + 1)[1:] for frame in owner], 1)
        if not seen.any(1).all() or (pixels - seen > self.rules.hidden * pixels).any():
            return False
        self.things.append(thing)
        self.whole, self.owner, self.strokes = pixels, owner, strokes
        return True
