"""A source whose examples carry the measures of one object each."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.source import Source
from .combine import Wrapped
from .nucleus import nucleus
from .object_features import object_features

OTSU = "otsu"


class Objects(Wrapped):
    """Adds the field `objects` (52,) float32, see `object_features`; NaN where a measure is undefined.

    marked: the class id of the object's pixels in the masks, or "otsu" for the nucleus found by its dye. Measured on the
    picture as it is stored, before any view, and kept: an epoch of every loader worker pays for it once.
    """

    def __init__(self, base: Source, marked: int | Literal["otsu"], where: str):
        super().__init__(base)
        check_installed(where)
        if marked != OTSU and base.stored_mask(0) is None:
            raise MarrowError(f"the images have no masks in which {marked} could mark the object", where=where,
                              hint="Give 'masks: FOLDER', parquet files with a column 'mask', or 'objects: otsu'.")  # fmt: skip
        self.marked, self._kept = marked, dict[int, Tensor]()

    def __getitem__(self, index: int) -> dict:
        return self._measured(self.base[index], index)

    def undecoded(self, index: int) -> dict:
        return self._measured(self.base.undecoded(index), index)

    def _measured(self, example: dict, index: int) -> dict:
        if index not in self._kept:
            whole = example if isinstance(example["image"], Tensor) else self.base[index]
            self._kept[index] = self._features(whole, self.name(index))
        return {**example, "objects": self._kept[index]}

    def _features(self, example: dict, where: str) -> Tensor:
        mask = None if self.marked == OTSU else example["mask"] == self.marked
        return measures(example["image"], mask, where)


def measures(image: Tensor, mask: Tensor | None, where: str) -> Tensor:
    """(52,) float32 of what a mask (H, W) bool marks in a picture (3, H, W) uint8; without one, of its nucleus."""
    if mask is None:
        mask = torch.from_numpy(nucleus(image.permute(1, 2, 0).numpy()))
    return torch.from_numpy(object_features(image, mask, where))


def check_installed(where: str) -> None:
    if find_spec("skimage") is None:
        raise MarrowError('This step needs scikit-image. Install it with: pip install "marrow[histology]"', where=where)
