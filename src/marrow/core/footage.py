"""A video whose frames are read once a view knows which of them it needs."""

from __future__ import annotations

from typing import Callable, NoReturn, Sequence

from torch import Tensor

from .errors import MarrowError


class Footage:
    """Stands for the tensor `image` (L, 3, H, W) of an example that is a video.

    read: numbers of frames -> these frames (T, 3, H, W) uint8; raises `Unreadable`.
    """

    def __init__(self, length: int, read: Callable[[Sequence[int]], Tensor]):
        self._length, self._read = length, read

    def __len__(self) -> int:
        return self._length

    def frames(self, numbers: Sequence[int]) -> Tensor:
        """Each frame that is asked for is read once, however often it is asked for."""
        distinct = sorted(set(numbers))
        place = {number: i for i, number in enumerate(distinct)}
        return self._read(distinct)[[place[number] for number in numbers]]

    @property
    def shape(self) -> NoReturn:
        """Pictures have a shape: a view that asks for it would take the video for one."""
        raise MarrowError(f"the source holds videos (this one has {self._length} frames), and pictures are needed", where="data",
                          hint="Train on videos with cvrl, or give a model that takes clips: {edit: over_frames, ...}.")  # fmt: skip


def footage(image: Tensor | Footage, where: str) -> Footage:
    """The `image` of an example of a video source, whole (L, 3, H, W) or not yet read."""
    if isinstance(image, Footage):
        return image
    if len(image.shape) != 4:
        raise MarrowError(f"videos are needed, and the source holds pictures of shape {tuple(image.shape)}", where=where,
                          hint="Say what lies in a folder: videos: frames, or videos: files.")  # fmt: skip
    return Footage(len(image), lambda numbers: image[list(numbers)])


def clip_numbers(start: int, frames: int, stride: int, length: int) -> list[int]:
    """The numbers of a clip's frames; behind the last frame of a video comes its first."""
    return [(start + i * stride) % length for i in range(frames)]
