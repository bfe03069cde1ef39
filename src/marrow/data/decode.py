"""Stored bytes -> uint8 tensor (3, H, W), for every kind of picture that people have."""

from __future__ import annotations

import functools
import io
import struct
import warnings
import zlib

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from ..core.source import Unreadable

MAX_PIXELS = 2 * 89_478_485  # where Pillow refuses too; a small file can claim to be far larger than any memory
TOO_LARGE = "too large to decode"
EMPTY, NO_IMAGE = "the file is empty", "not an image"
# Of all that Pillow opens; some of the others (EPS) would start a program.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
# What Pillow's decoders raise on damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError, RuntimeError)
DAMAGED += (struct.error, zlib.error, Image.DecompressionBombError)


def decode(data: bytes, name: str) -> Tensor:
    """RGB (3, H, W), turned as EXIF says. Alpha is dropped, 16 bit become 8, an animation gives its first frame.

    Raises `Unreadable` for what is empty, damaged, too large or no image.
    """
    if not data:
        raise Unreadable(name, EMPTY)
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data, name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's words about damage: what matters is raised
        image = opened(data, name)
        try:
            return _to_tensor(_eight_bit(ImageOps.exif_transpose(image)).convert("RGB"))
        except DAMAGED as error:
            raise Unreadable(name, f"damaged or truncated {image.format} ({error})") from None


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


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) from the frame header, without decoding; None if there is none."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def _jpeg(data: bytes, name: str) -> Tensor:
    """libjpeg-turbo through torchvision: the pixels Pillow gives, in 0.3 to 0.7 of its time."""
    size = jpeg_size(data)
    if size is None:
        raise Unreadable(name, "damaged or truncated JPEG (no frame header)")
    _guard(*size, name)
    try:
        return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB,
                           apply_exif_orientation=True)  # fmt: skip
    except RuntimeError as error:
        reason = str(error).splitlines()[0].split(", ")[-1]
        raise Unreadable(name, f"damaged or truncated JPEG ({reason})") from None


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
