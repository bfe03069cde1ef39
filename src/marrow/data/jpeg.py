"""JPEG: the header without the pixels, the pixels at full size or at a fraction of it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from ..core.source import Unreadable

START = b"\xff\xd8\xff"
ORIENTATION = 0x0112  # the EXIF tag
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers with a size; the three others define tables
EXIF, SCAN, FILL = 0xE1, 0xDA, 0xFF
REASON = "damaged or truncated JPEG"
# What Pillow raises on damaged files.
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, TypeError, IndexError, KeyError, OverflowError, RuntimeError)
DAMAGED += (struct.error, zlib.error, Image.DecompressionBombError)


class Frame(NamedTuple):
    """Height and width as stored, and how EXIF says they are to be turned: 1 to 8, 5 and more swap them."""

    height: int
    width: int
    orientation: int

    @property
    def upright(self) -> tuple[int, int]:
        return (self.width, self.height) if self.orientation > 4 else (self.height, self.width)


def frame(data: bytes, name: str) -> Frame:
    """What the header says; raises `Unreadable` where there is none."""
    at, size, orientation = 2, None, None
    while at + 9 <= len(data) and data[at] == 0xFF and (marker := data[at + 1]) != SCAN:
        if marker == FILL:
            at += 1
            continue
        if marker in FRAMES and size is None:
            size = int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 7 : at + 9])
        length = int.from_bytes(data[at + 2 : at + 4])
        if marker == EXIF and orientation is None and data[at + 4 : at + 10] == b"Exif\0\0":
            orientation = _orientation(data[at + 4 : at + 2 + length])
        at += 2 + length
    if size is None:
        raise Unreadable(name, f"{REASON} (no frame header)")
    return Frame(*size, orientation or 1)


def pixels(data: bytes, head: Frame, scale: int, name: str) -> Tensor:
    """RGB (3, H, W), upright. scale 1: libjpeg-turbo through torchvision, in 0.3 to 0.7 of Pillow's time, the same pixels.

    scale 2, 4, 8: libjpeg leaves out the finer part of each block (Pillow reaches it, torchvision does not), so 12
    million pixels take 23, 15 and 12 ms in place of 46. Against all pixels resized with antialiasing, a training crop
    differs by 0.6 to 1.6 of 255 levels a pixel in the same box, by 1.4 to 3.8 where the box moves to the reduced grid
    (up to half a pixel of the result).
    """
    if scale == 1:
        try:
            image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
        except RuntimeError as error:
            raise Unreadable(name, f"{REASON} ({str(error).splitlines()[0].split(', ')[-1]})") from None
    else:
        image = _reduced(data, head, scale, name)
    return _turned(image, head.orientation)


def _reduced(data: bytes, head: Frame, scale: int, name: str) -> Tensor:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's words about damage: what matters is raised
            image = Image.open(io.BytesIO(data), formats=("JPEG",))
            image.draft(None, (head.width // scale, head.height // scale))
            whole = np.array(image if image.mode == "RGB" else image.convert("RGB"))  # it would copy even RGB
    except DAMAGED as error:
        raise Unreadable(name, f"{REASON} ({error})") from None
    if whole.shape[:2] != (-(-head.height // scale), -(-head.width // scale)):
        raise Unreadable(name, f"{REASON} (its headers disagree about its size)")
    return torch.from_numpy(whole).permute(2, 0, 1)


def _orientation(segment: bytes) -> int:
    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(segment)
            value = exif.get(ORIENTATION, 1)
    except DAMAGED:  # the tags; the picture need not be
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turned(image: Tensor, orientation: int) -> Tensor:
    """(3, H, W) as EXIF's orientation says: 2 to 4 mirror, 5 to 8 swap the sides as well."""
    if orientation > 4:
        image = image.transpose(1, 2)
    mirrored = {1: (), 2: (2,), 3: (1, 2), 4: (1,), 5: (), 6: (2,), 7: (1, 2), 8: (1,)}[orientation]
    return image.flip(mirrored) if mirrored else image
