"""Videos made of the embedded digits: one digit moves over a canvas, and the class is how it moves."""

from __future__ import annotations

import math
from typing import Sequence

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from ..core.contracts import seed_from
from ..core.footage import Footage
from ..core.source import Source
from .hashing import fraction

COUNT, LENGTH, SIDE = 4000, 24, 32
MOTIONS = ("left", "right", "up", "down", "clockwise", "counter-clockwise", "zoom in", "zoom out")
TRAVEL = (0.5, 0.9)  # over the whole video, in halves of the canvas
TURN = (0.5, 1.0)  # over the whole video, in half turns


class MovingDigits(Source):
    """4,000 videos (24, 3, 32, 32) uint8, drawn anew from their number whenever a frame is asked for.

    Digit, colours, place, size and speed are drawn for each video; the label is one of eight motions. changing: the digit
    fades into another one from the first frame to the last, and so do the colours, so that distant clips look different.
    The hash is that of what was drawn. A digit may be seen in several videos, also across splits.
    """

    classes = list(MOTIONS)

    def __init__(self, changing: bool = False):
        from sklearn.datasets import load_digits

        self.changing = changing
        self._digits = torch.from_numpy(load_digits().images).float() / 16  # (N, 8, 8)
        draw = torch.Generator().manual_seed(seed_from("moving_digits", changing))
        self._pair = torch.randint(len(self._digits), (COUNT, 2), generator=draw)
        self._drawn = torch.rand(COUNT, 17, generator=draw)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict:
        example = self.undecoded(index)
        return {**example, "image": example["image"].frames(range(LENGTH))}

    def undecoded(self, index: int) -> dict:
        if not 0 <= index < COUNT:
            raise IndexError(index)
        return {"image": Footage(LENGTH, lambda numbers: self._frames(index, numbers)), "label": self.label(index)}

    def fraction(self, index: int) -> float:
        motion = torch.tensor([self.label(index), *self._pair[index]])
        return fraction(motion.numpy().tobytes() + self._drawn[index].numpy().tobytes())

    def name(self, index: int) -> str:
        return f"moving_digits/{index}"

    def label(self, index: int) -> int:
        return index % len(MOTIONS)

    def _frames(self, index: int, numbers: Sequence[int]) -> Tensor:
        drawn = self._drawn[index]
        time = torch.tensor(numbers, dtype=torch.float32) / (LENGTH - 1)
        shown = self._digits[self._pair[index]][:, None]  # (2, 1, 8, 8)
        grid = affine_grid(
            path(MOTIONS[self.label(index)], time, drawn[:5]), [len(time), 1, SIDE, SIDE], align_corners=False
        )
        second = time if self.changing else torch.zeros_like(time)
        digit = torch.lerp(shown[0], shown[1], second.view(-1, 1, 1, 1))
        alpha = grid_sample(digit, grid, align_corners=False)
        colours = drawn[5:].view(2, 2, 3)  # from and to, of the digit and of what is behind it
        now = torch.lerp(colours[:, 0, None], colours[:, 1, None], second.view(1, -1, 1))  # (2, T, 3)
        front, back = 0.5 + 0.5 * now[0], 0.4 * now[1]
        picture = back[..., None, None] + alpha * (front - back)[..., None, None]
        return (255 * picture).round().clamp(0, 255).to(torch.uint8)


def path(motion: str, time: Tensor, drawn: Tensor) -> Tensor:
    """(T, 2, 3): from places on the canvas to places on the digit, at times (T,) in [0, 1]; drawn: 5 numbers in [0, 1)."""
    speed, side_x, side_y, size, turned = drawn.tolist()
    scale = torch.full_like(time, 0.35 + 0.15 * size)  # of the digit, in canvases
    angle = torch.full_like(time, 0.25 * (2 * turned - 1))
    x, y = torch.full_like(time, 0.5 * (2 * side_x - 1)), torch.full_like(time, 0.5 * (2 * side_y - 1))
    centred = time - 0.5
    travel = TRAVEL[0] + speed * (TRAVEL[1] - TRAVEL[0])
    turn = math.pi * (TURN[0] + speed * (TURN[1] - TURN[0]))
    match motion:
        case "left" | "right":
            x = 0.2 * x + centred * travel * (1 if motion == "right" else -1)
        case "up" | "down":
            y = 0.2 * y + centred * travel * (1 if motion == "down" else -1)
        case "clockwise" | "counter-clockwise":
            angle = angle + centred * turn * (1 if motion == "clockwise" else -1)
        case "zoom in" | "zoom out":
            scale = scale * torch.exp(centred * travel * (1 if motion == "zoom in" else -1))
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [cos, sin, -(cos * x + sin * y), -sin, cos, sin * x - cos * y]
    return torch.stack(rows, 1).view(-1, 2, 3)
