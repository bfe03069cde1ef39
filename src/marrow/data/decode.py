"""Stored bytes -> uint8 tensor (3, H, W), for every kind of picture that people have."""

from __future__ import annotations

import functools
import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..core.photo import Photo
from ..core.source import Unreadable
from . import jpeg
from .jpeg import DAMAGED

MAX_PIXELS = 2 * 89_478_485  # where Pillow refuses too; a small file can claim to be far larger than any memory
TOO_LARGE = "too large to decode"
EMPTY, NO_IMAGE = "the file is empty", "not an image"
# Of all that Pillow opens; some of the others (EPS) would start a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")


def decode(data: bytes, name: str) -> Tensor:
    """RGB (3, H, W), turned as EXIF says. Alpha is dropped, 16 bit become 8, an animation gives its first frame.

    Raises `Unreadable` for what is empty, damaged, too large or no image.
    """
    if not data:
        raise Unreadable(name, EMPTY)
    if data[:3] == jpeg.START:
        return jpeg.pixels(data, _frame(data, name), 1, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's words about damage: what matters is raised
        image = opened(data, name)
        try:
            return _to_tensor(_eight_bit(ImageOps.exif_transpose(image)).convert("RGB"))
        except DAMAGED as error:
            raise Unreadable(name, f"damaged or truncated {image.format} ({error})") from None


def undecoded(data: bytes, name: str) -> Tensor | Photo:
    """A JPEG whose header is read, so that a view may ask for less than all of its pixels; else as `decode`."""
    if data[:3] != jpeg.START:
        return decode(data, name)
    head = _frame(data, name)
    return Photo(*head.upright, lambda scale: jpeg.pixels(data, head, scale, name))


def decode_ids(data: bytes, name: str) -> Tensor:
    """A picture of class ids, such as a mask: (H, W) int64, the stored values untouched (palette indices too)."""
    if not data:
        raise Unreadable(name, "the mask is empty")
    image = opened(data, name)
    try:
        ids = np.array(image)
    except DAMAGED as error:
        raise Unreadable(name, f"damaged or truncated mask ({error})") from None
    if ids.ndim != 2:
        raise Unreadable(name, f"a mask has one channel, this one has mode {image.mode}")
    return torch.from_numpy(ids.astype(np.int64))


def _frame(data: bytes, name: str) -> jpeg.Frame:
    head = jpeg.frame(data, name)
    _guard(head.height, head.width, name)
    return head


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow knows; older ones are without AVIF."""
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)


def opened(data: bytes, name: str) -> Image.Image:
    """A picture of which only the header is read; raises `Unreadable`."""
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.UnidentifiedImageError:
        raise Unreadable(name, NO_IMAGE) from None
    except Image.DecompressionBombError as error:
        raise Unreadable(name, f"{TOO_LARGE} ({error})") from None
    except DAMAGED as error:
        raise Unreadable(name, f"damaged or truncated image ({error})") from None
    _guard(image.height, image.width, name)
    return image


def _guard(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise Unreadable(name, f"{TOO_LARGE} ({width} x {height} pixels, at most {MAX_PIXELS:,} are decoded)")


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey -> 8-bit by its high byte; Pillow itself would clip it."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range")
    if image.mode.startswith("I"):
        return Image.fromarray((np.array(image).clip(0, 65535) >> 8).astype(np.uint8))
    return image


def _to_tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
