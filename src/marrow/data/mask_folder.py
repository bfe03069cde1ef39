"""A folder of images and a folder of masks, paired by name."""

from __future__ import annotations

import os
from pathlib import Path

from torch import Tensor

from ..core.errors import MarrowError
from ..core.source import Source
from .combine import Wrapped
from .decode import decode_ids
from .folder import ImageFolder, image_files


class MaskFolder(Wrapped):
    """Adds to each image of a folder the mask that lies under the same path, up to the ending, in another folder.

    Files in the mask folder that no image asks for are left alone.
    """

    def __init__(self, base: Source, root: Path, where: str):
        super().__init__(base)
        if not isinstance(base, ImageFolder):
            raise MarrowError("a folder of masks goes with a folder of image files; parquet files bring a column 'mask'",
                              where=where)  # fmt: skip
        if not root.is_dir():
            raise MarrowError(f"no folder {root}", where=where)
        self.root = os.path.abspath(root)
        known: dict[str, str] = {}
        for path in sorted(map(os.fsdecode, image_files(self.root))):
            other = known.setdefault(os.path.splitext(path)[0], path)
            if other != path:
                raise MarrowError(f"two masks, {other} and {path}, have one name up to the ending", where=where)
        wanted = [os.path.splitext(base.relative(i))[0] for i in range(len(base))]
        if lonely := [i for i, stem in enumerate(wanted) if stem not in known]:
            raise MarrowError(f"{len(lonely)} of {len(base)} images have no mask under their name, the first is "
                              f"{base.name(lonely[0])}", where=where)  # fmt: skip
        self._files = [known[stem] for stem in wanted]

    def __getitem__(self, index: int) -> dict:
        return {**self.base[index], "mask": self._mask(index)}

    def undecoded(self, index: int) -> dict:
        return {**self.base.undecoded(index), "mask": self._mask(index)}

    def _mask(self, index: int) -> Tensor:
        return decode_ids(self.stored_mask(index), self.name(index))

    def stored_mask(self, index: int) -> bytes:
        try:
            return Path(self.root, self._files[index]).read_bytes()
        except OSError:
            return b""
