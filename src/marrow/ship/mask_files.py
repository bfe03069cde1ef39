"""Masks as picture files: which name each gets, their colours, what share of a picture each class has."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ..core.errors import MarrowError

ANGLE = 137.508  # degrees of hue from one class to the next: any few that follow each other lie far apart


def colours(count: int) -> np.ndarray:
    """(count, 3) uint8, told apart by hue first, then by brightness."""
    hue = np.round((np.arange(count) * ANGLE) % 360 * 255 / 360)
    value = 230 - 60 * (np.arange(count) // 8 % 3)
    hsv = np.stack([hue, np.full(count, 170), value], -1).astype(np.uint8)
    return np.asarray(Image.fromarray(hsv[None], "HSV").convert("RGB"))[0]


def targets(pictures: Sequence[tuple[str, str]], out: Path) -> list[Path]:
    """`out`/PATH.png for each picture (file, path in its folder); no two may meet, and no picture is written over."""
    found = [out / Path(inner).with_suffix(".png") for _, inner in pictures]
    if twice := next((path for path, n in Counter(found).items() if n > 1), None):
        raise MarrowError(f"two pictures would have their masks in {twice}", where="--out",
                          hint="Give one folder at a time, without two pictures of one name up to the ending.")  # fmt: skip
    given = {os.path.realpath(file) for file, _ in pictures}
    if over := next((path for path in found if os.path.realpath(path) in given), None):
        raise MarrowError(f"the mask of a picture would replace the picture {over}", where="--out",
                          hint="Give a folder of its own.")  # fmt: skip
    return found


def write(mask: Tensor, size: tuple[int, int], path: Path, classes: int) -> None:
    """mask (H, W) of class ids as a PNG of this height and width whose pixels are the ids; up to 256 classes in colours."""
    wide = classes > 256
    picture = Image.fromarray(mask.numpy().astype(np.uint16 if wide else np.uint8))
    picture = picture.resize(size[::-1], Image.Resampling.NEAREST)
    if not wide:
        picture.putpalette(colours(classes).tobytes())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
    except OSError as error:
        raise MarrowError(f"{path} cannot be written ({error.strerror})", where="--out") from None


def shares(mask: Tensor, names: Sequence[str]) -> dict[str, float]:
    """The share of a mask (H, W) that each class covers, largest first; without classes that it lacks."""
    counts = mask.flatten().bincount(minlength=len(names)).double() / mask.numel()
    return {names[i]: round(float(counts[i]), 4) for i in counts.argsort(descending=True, stable=True) if counts[i]}
