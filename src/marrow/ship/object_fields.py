"""Measures of the object in each picture, for models that read them beside it."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import NamedTuple

from ..core.errors import MarrowError
from ..core.photo import Photo
from ..core.source import Unreadable
from ..data.decode import decode_ids
from ..data.objects import OTSU, check_installed, measures


class ObjectFields(NamedTuple):
    """marked: the class id of the object in the masks, None where its nucleus is found by Otsu's threshold."""

    marked: int | None
    masks: Path

    @classmethod
    def of(cls, reads: bool, objects: int | str | None, masks: Path | str | None) -> "ObjectFields | None":
        """As a user asks for them; None for a model that reads no measures. reads: whether this one does."""
        if not reads:
            if objects is not None or masks is not None:
                raise MarrowError("this model reads nothing but the pictures",
                                  where="--masks" if objects is None else "--objects")  # fmt: skip
            return None
        if objects is None:
            raise MarrowError("this model reads measures of the object in each picture, and it is not said which object",
                              where="--objects", hint="Give what it was trained with: otsu, or a class id and --masks FOLDER.")  # fmt: skip
        check_installed("--objects")
        if objects == OTSU:
            if masks is not None:
                raise MarrowError("otsu finds the object without masks", where="--masks")
            return cls(None, Path())
        if not str(objects).isdecimal():
            raise MarrowError(f"'{objects}' is neither otsu nor a class id", where="--objects")
        if masks is None or not Path(masks).is_dir():
            raise MarrowError(f"class {objects} marks the object in masks, and " + ("there are none" if masks is None else
                              f"there is no folder {masks}"), where="--masks")  # fmt: skip
        return cls(int(objects), Path(masks))

    def added(self, example: dict, inner: str) -> dict:
        """The example with `objects`, measured as a source does. inner: the picture's path in its folder, which is its
        mask's in the folder of masks, up to the ending.
        """
        image = example["image"]
        image = image.reduced(1) if isinstance(image, Photo) else image
        mask = None if self.marked is None else decode_ids(self._stored(inner), inner) == self.marked
        try:
            return {**example, "objects": measures(image, mask, inner)}
        except MarrowError as error:
            raise Unreadable(inner, error.message) from None

    def _stored(self, inner: str) -> bytes:
        place = self.masks / inner
        found = sorted(place.parent.glob(f"{glob.escape(place.stem)}.*"))
        if len(found) != 1:
            raise Unreadable(inner, f"{len(found)} masks have its name" if found else "no mask has its name")
        return found[0].read_bytes()
