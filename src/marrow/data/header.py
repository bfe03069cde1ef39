"""What the header of a stored picture says, before anything is decoded."""

from __future__ import annotations

import dataclasses
import os
import warnings

from PIL import Image

from ..core.source import Unreadable
from .decode import EMPTY, opened
from .jpeg import DAMAGED, ORIENTATION

BITS_PER_SAMPLE = 258  # the TIFF tag
ENDINGS = {
    "JPEG": (".jpg", ".jpeg"), "MPO": (".jpg", ".jpeg"), "PNG": (".png",), "WEBP": (".webp",), "BMP": (".bmp",),
    "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "PPM": (".ppm", ".pgm", ".pbm"), "JPEG2000": (".jp2",),
    "AVIF": (".avif",),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Header:
    """format: Pillow's name of it. kinds: what is unusual, of "grey", "palette", "alpha", "CMYK", "16 bit", ...

    ... "animated", "turned" (by EXIF) and "wrong ending". height and width as stored, before EXIF turns them.
    """

    format: str
    height: int
    width: int
    kinds: tuple[str, ...]


def header(data: bytes, name: str) -> Header:
    """Raises `Unreadable` for what is empty, no image, or too large; damage further on is not seen."""
    if not data:
        raise Unreadable(name, EMPTY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's words about size and damage: what matters is raised
        image = opened(data, name)
        form = image.format or ""
        try:
            seen = {
                "grey": image.mode in ("1", "L", "LA", "F") or image.mode.startswith("I"),
                "palette": image.mode in ("P", "PA"),
                "alpha": image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info,
                "CMYK": image.mode == "CMYK",
                "16 bit": _depth(image, data) > 8,
                "animated": form != "MPO" and getattr(image, "is_animated", False),  # an MPO holds a preview
                "turned": _orientation(image) > 1,
                "wrong ending": _ending(name) not in ("", *ENDINGS[form]),
            }
        except DAMAGED as error:
            raise Unreadable(name, f"damaged or truncated {form} ({error})") from None
    return Header("JPEG" if form == "MPO" else form, image.height, image.width, tuple(k for k, v in seen.items() if v))


def _depth(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG":
        return data[24]  # Pillow's mode is RGB for 16-bit colours too
    if image.format == "TIFF":
        return max(image.tag_v2.get(BITS_PER_SAMPLE, (1,)))  # type: ignore[attr-defined]
    return 16 if image.mode.startswith("I") else 8


def _orientation(image: Image.Image) -> int:
    # Asked for what it has not met yet, Pillow would decode a PNG to look for it behind the pixels.
    if "exif" not in image.info and image.format != "TIFF":
        return 1
    value = image.getexif().get(ORIENTATION, 1)
    return value if isinstance(value, int) else 1


def _ending(name: str) -> str:
    """The ending of a file that claims a format; rows of a parquet file and of shards have none."""
    ending = os.path.splitext(name)[1].lower()
    return ending if any(ending in known for known in ENDINGS.values()) else ""
