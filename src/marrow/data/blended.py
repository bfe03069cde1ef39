"""Pictures laid over each other, half and half: a pattern that all share with one that only some have."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.contracts import seed_from
from ..core.errors import MarrowError
from ..core.source import Source
from .combine import Wrapped
from .hashing import fraction
from .views import resize


class Blended(Wrapped):
    """The mean of each picture and one of `other` (None: black), drawn for it by `salt` and its content; labels stay.

    Both get the larger height and width, so it makes no difference which of them lies over the other.
    Each example has the same partner in every epoch and process. Masks and files are those of neither, so there are none.
    """

    def __init__(self, base: Source, other: Source | None, salt: str):
        super().__init__(base)
        self.other, self.salt, self.mask_classes = other, salt, None

    def __getitem__(self, index: int) -> dict:
        example = {k: v for k, v in self.base[index].items() if k != "mask"}
        return {**example, "image": self._over(example["image"], index)}

    def undecoded(self, index: int) -> dict:
        return self[index]

    def _over(self, image: Tensor, index: int) -> Tensor:
        if self.other is None:
            return image // 2
        above = self.other[self.partner(index)]["image"]
        if image.shape[:-3] != above.shape[:-3]:
            raise MarrowError(f"'{self.base.name(index)}' is {_kind(image)} and '{self.other.name(self.partner(index))}' "
                              f"{_kind(above)}, which cannot be blended", where="data.blend")  # fmt: skip
        size = max(image.shape[-2], above.shape[-2]), max(image.shape[-1], above.shape[-1])
        return ((resize(image, size).to(torch.int16) + resize(above, size)) // 2).byte()

    def partner(self, index: int) -> int:
        """Which picture of the other source lies over it."""
        return seed_from("blend", self.salt, index, self.base.fraction(index)) % len(self.other or ())

    def fraction(self, index: int) -> float:
        own = self.base.fraction(index)
        above = None if self.other is None else self.other.fraction(self.partner(index))
        return fraction(f"blend:{own!r}:{above!r}".encode())

    def underneath(self, index: int) -> float:
        return self.base.underneath(index)

    def name(self, index: int) -> str:
        return (
            self.base.name(index)
            if self.other is None
            else f"{self.base.name(index)} + {self.other.name(self.partner(index))}"
        )

    def stored(self, index: int) -> None:
        return None

    def stored_mask(self, index: int) -> None:
        return None


def _kind(image: Tensor) -> str:
    return "a picture" if image.ndim == 3 else f"a video of {len(image)} frames"


class Turned(Wrapped):
    """Each picture, and its mask, turned counter-clockwise by so many quarters."""

    def __init__(self, base: Source, quarters: int):
        super().__init__(base)
        self.quarters = quarters

    def __getitem__(self, index: int) -> dict:
        example = self.base[index]
        moved = {k: torch.rot90(example[k], self.quarters, (-2, -1)) for k in ("image", "mask") if k in example}
        return {**example, **moved}

    def undecoded(self, index: int) -> dict:
        return self[index]

    def stored(self, index: int) -> None:
        return None
