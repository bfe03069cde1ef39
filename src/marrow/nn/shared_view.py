"""One view of an image for two nets, each of which sees it at its own input size."""

from __future__ import annotations

from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from ..core.contracts import Input
from ..core.errors import MarrowError


def shared_size(student: Input, teacher: Input, where: str) -> tuple[int, int]:
    """The size (height, width) of a view that serves both: the larger of each side."""
    if student.channels != teacher.channels:
        raise MarrowError(f"teacher sees {teacher.channels} channels, student {student.channels}; they share every view",
                          where=where)  # fmt: skip
    return max(student.size[0], teacher.size[0]), max(student.size[1], teacher.size[1])


def resized(image: Tensor, input: Input) -> Tensor:
    """The shared view (B, C, H, W) at the size of one of them."""
    size = list(input.size)
    return image if list(image.shape[-2:]) == size else transforms.resize(image, size, antialias=True)
