"""A large picture that is decoded once a view knows how much of it is needed."""

from __future__ import annotations

from typing import Callable

from torch import Tensor

SCALES = (8, 4, 2)  # what a JPEG can be divided by while it is decoded, which takes a quarter of the time at 8

Box = tuple[int, int, int, int]  # top, left, height, width


class Photo:
    """Stands for the tensor `image` of an example, with the same `shape` (3, H, W).

    decode: scale -> the picture (3, ceil(H / scale), ceil(W / scale)) uint8; raises `Unreadable`.
    """

    def __init__(self, height: int, width: int, decode: Callable[[int], Tensor]):
        self.shape = (3, height, width)
        self._decode, self._decoded = decode, dict[int, Tensor]()

    def reduced(self, scale: int) -> Tensor:
        """The picture at 1 / scale; several views of one photo share it."""
        if scale not in self._decoded:
            self._decoded[scale] = self._decode(scale)
        return self._decoded[scale]


class PhotoView:
    """A view that takes examples whose `image` is a `Photo`; any other view is given the decoded picture."""


def scale_for(box: Box, size: tuple[int, int]) -> int:
    """The most by which a photo can be divided so that what is left of the box is no smaller than `size`."""
    return next((s for s in SCALES if all(have >= need for have, need in zip(divided(box, s)[2:], size))), 1)


def divided(box: Box, scale: int) -> Box:
    """A box of the whole photo in pixels of the reduced one, each edge at the nearest."""
    top, left, height, width = box
    top, left, bottom, right = (round(edge / scale) for edge in (top, left, top + height, left + width))
    return top, left, bottom - top, right - left
