"""A picture to a model's input size: the one way for validation, calibration, export and prediction."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .clip_input import ClipInput
from .contracts import Input
from .errors import MarrowError
from .footage import clip_numbers, footage
from .photo import Photo, PhotoView, scale_for

# A large photo is decoded to no less than this times what it is resized to. At 1.5 a pixel differs by 0.2 to 0.9 of 255
# levels from the whole photo resized; at 1 by up to 1.4, which evaluation need not bear to be a third faster.
SPARE = 1.5


@dataclasses.dataclass(frozen=True)
class Plain(PhotoView):
    """Maps an example to one with `image` (channels, *size) of unchanged dtype, and a `mask` moved along.

    Other fields pass through.

    "crop" scales the picture until it covers size / crop_pct and cuts the centre; "squash" ignores the aspect ratio.
    """

    size: tuple[int, int]
    channels: int
    resize: str
    crop_pct: float
    interpolation: str

    def __call__(self, example: dict) -> dict:
        image = example["image"]
        height, width = image.shape[-2:]
        target = self.covering(height, width) if self.resize == "crop" else self.size
        if isinstance(image, Photo):
            image = image.reduced(scale_for((0, 0, height, width), (int(SPARE * target[0]), int(SPARE * target[1]))))
        image = with_channels(image, self.channels)
        if tuple(image.shape[-2:]) != target:
            image = F.resize(image, list(target), InterpolationMode(self.interpolation), antialias=True)
        if target != self.size:
            image = F.center_crop(image, list(self.size))
        if "mask" not in example:
            return {**example, "image": image}
        mask = F.resize(example["mask"][None], list(target), InterpolationMode.NEAREST_EXACT)
        return {**example, "image": image, "mask": F.center_crop(mask, list(self.size))[0]}

    def covering(self, height: int, width: int) -> tuple[int, int]:
        """The smallest size of this aspect ratio that covers size / crop_pct; rounded down, as timm does."""
        h, w = int(self.size[0] / self.crop_pct), int(self.size[1] / self.crop_pct)
        return (h, h * width // height) if h * width >= w * height else (w * height // width, w)


@dataclasses.dataclass(frozen=True)
class PlainClip(PhotoView):
    """The clip in the middle of a video; one that is too short is run through again."""

    frames: int
    stride: int
    picture: Plain

    def __call__(self, example: dict) -> dict:
        video = footage(example["image"], "data")
        start = max(0, (len(video) - (self.frames - 1) * self.stride - 1) // 2)
        clip = video.frames(clip_numbers(start, self.frames, self.stride, len(video)))
        return {**example, "image": torch.stack([self.picture({"image": frame})["image"] for frame in clip])}


def plain(input: Input) -> Plain | PlainClip:
    """The preprocessing that a model's `Input` asks for, as a picklable callable on one example."""
    if isinstance(input, ClipInput):
        return PlainClip(input.frames, input.stride, _plain(input.picture))
    return _plain(input)


def _plain(input: Input) -> Plain:
    if input.modality != "image":
        raise MarrowError(
            f"there is no plain preprocessing for modality '{input.modality}'; known: image, video", where="input"
        )
    if input.resize not in ("crop", "squash"):
        raise MarrowError(f"unknown way to resize '{input.resize}'; known: crop, squash", where="input.resize")
    if not 0 < input.crop_pct <= 1:
        raise MarrowError(f"{input.crop_pct} is outside 0..1", where="input.crop_pct")
    known = [mode.value for mode in InterpolationMode]
    if input.interpolation not in known:
        raise MarrowError(
            f"unknown interpolation '{input.interpolation}'; known: {', '.join(known)}", where="input.interpolation"
        )
    return Plain(input.size, input.channels, input.resize, input.crop_pct, input.interpolation)


def with_channels(image: Tensor, channels: int) -> Tensor:
    """(C, H, W) -> (channels, H, W): grey is repeated, alpha dropped, colour weighed to grey."""
    have = image.shape[0]
    if have in (2, 4):
        image, have = image[: have - 1], have - 1
    if have == channels:
        return image
    if have == 1:
        return image.expand(channels, -1, -1)
    if have == 3 and channels == 1:
        return F.rgb_to_grayscale(image)
    raise MarrowError(f"an image with {have} channels does not fit a model that takes {channels}", where="image")
