"""The clips of a video that are looked at when a classifier is measured, as published figures for videos are."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..core.clip_input import ClipInput
from ..core.footage import clip_numbers, footage
from ..core.photo import PhotoView
from ..core.preprocess import with_channels
from .clip_views import resize_clip


@dataclasses.dataclass(frozen=True)
class MeasuredClips(PhotoView):
    """`image` (clips * crops, T, C, H, W) of a video: clips that begin at equal distances, each cut along its longer side.

    The frames are scaled until they cover the input, whatever share of a picture is cut out for it elsewhere. One clip is
    that in the middle, one crop the one in the middle. A video that is too short is run through again.
    """

    input: ClipInput
    clips: int
    crops: int

    def __call__(self, example: dict) -> dict:
        video = footage(example["image"], "data")
        frames, stride = self.input.frames, self.input.stride
        room = max(0, len(video) - (frames - 1) * stride - 1)
        numbers = [clip_numbers(start, frames, stride, len(video)) for start in _spread(room, self.clips)]
        read = video.frames([n for clip in numbers for n in clip])  # frames that several have are read once
        shown = [cut for clip in read.split(frames) for cut in self._cuts(clip)]
        return {**example, "image": torch.stack(shown)}

    def _cuts(self, clip: Tensor) -> list[Tensor]:
        height, width = self.input.size
        scale = max(height / clip.shape[-2], width / clip.shape[-1])
        covering = max(height, round(clip.shape[-2] * scale)), max(width, round(clip.shape[-1] * scale))
        clip = torch.stack([with_channels(frame, self.input.channels) for frame in resize_clip(clip, covering)])
        spare = covering[0] - height, covering[1] - width
        tops, lefts = ((_spread(room, self.crops)) for room in spare)
        return [clip[..., top : top + height, left : left + width] for top, left in zip(tops, lefts)]


def _spread(room: int, count: int) -> list[int]:
    """So many whole numbers from 0 to `room`, equally far apart; a single one is in the middle."""
    return [room // 2] if count == 1 else [round(i * room / (count - 1)) for i in range(count)]
