"""Two clips of a video, each changed in the same way from its first frame to its last."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..core.clip_input import ClipInput
from ..core.contracts import Input
from ..core.errors import MarrowError
from ..core.footage import clip_numbers, footage
from ..core.photo import PhotoView
from .clip_interval import two_starts
from .colours import Colours
from .views import cut, random_box, resize

STRENGTH = (0.8, 0.8, 0.8, 0.2)
FIRST = Colours(STRENGTH, blur=1.0)
SECOND = Colours(STRENGTH, blur=0.1, solarise=0.2)
RATIOS = (0.5, 2.0)


@dataclasses.dataclass(frozen=True)
class ClipViews(PhotoView):
    """`clip_1` and `clip_2` (T, C, H, W) of a video, each cut, mirrored and coloured by draws of its own.

    They take the place of `image`; `looped` is 1.0 where the video is too short and was run through again, else 0.0.
    frames, stride: of a clip. power: of the distance between the two, see `sample_interval`. crop: shares of the area
    that is cut out, at an aspect ratio of 1/2 to 2. consistent: one draw for all frames of a clip, else each frame has
    its own.
    """

    size: tuple[int, int]
    frames: int
    stride: int
    power: float = 1.0
    crop: tuple[float, float] = (0.3, 1.0)
    flip: bool = True
    consistent: bool = True
    first: Colours = FIRST
    second: Colours = SECOND

    @classmethod
    def of(cls, input: Input, **changes: Any) -> "ClipViews":
        """Clips as a model takes them."""
        if not isinstance(input, ClipInput):
            raise MarrowError("clips are made for a model of clips, and this one takes pictures", where="cvrl.backbone",
                              hint="Put it over the frames: {edit: over_frames, values: {frames: 16, stride: 2}, of: [...]}.")  # fmt: skip
        return cls(input.size, input.frames, input.stride, **changes)

    def __post_init__(self) -> None:
        if not 0 < self.crop[0] <= self.crop[1] <= 1:
            raise MarrowError(f"{self.crop} is not a range of shares within 0..1", where="ClipViews.crop")

    def __call__(self, example: dict) -> dict:
        video = footage(example["image"], "cvrl")
        *starts, looped = two_starts(len(video), self.frames, self.stride, self.power)
        numbers = [clip_numbers(start, self.frames, self.stride, len(video)) for start in starts]
        clips = video.frames(numbers[0] + numbers[1]).split(self.frames)  # frames that both have are read once
        views = {k: v for k, v in example.items() if k != "image"}
        for name, clip, colours in zip(("clip_1", "clip_2"), clips, (self.first, self.second)):
            parts = [clip] if self.consistent else clip.split(1)
            views[name] = torch.cat([self._changed(part, colours) for part in parts])
        return {**views, "looped": torch.tensor(float(looped))}

    def _changed(self, clip: Tensor, colours: Colours) -> Tensor:
        box = random_box(clip.shape[-2], clip.shape[-1], self.crop, RATIOS)
        mirrored = self.flip and torch.rand(()).item() < 0.5
        clip = resize_clip(cut(clip, *box), self.size)
        return coloured(clip.flip(-1) if mirrored else clip, colours)


def coloured(clip: Tensor, colours: Colours) -> Tensor:
    """The clip (T, C, H, W) under one draw of the colours.

    The jitter sees the frames as one tall picture, so that its contrast is about the mean of the clip; the blur must not
    run from one frame into the next.
    """
    tall = dataclasses.replace(colours, blur=0.0, solarise=0.0)(rearrange(clip, "t c h w -> c (t h) w"))
    clip = rearrange(tall, "c (t h) w -> t c h w", t=len(clip))
    return dataclasses.replace(colours, jitter=0.0, grey=0.0)(clip)


def resize_clip(clip: Tensor, size: tuple[int, int]) -> Tensor:
    """All frames (T, C, H, W) to a size, as the picture (T * C, H, W)."""
    flat = resize(rearrange(clip, "t c h w -> (t c) h w"), size)
    return rearrange(flat, "(t c) h w -> t c h w", t=len(clip))
