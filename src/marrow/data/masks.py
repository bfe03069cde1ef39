"""Masks beside images: do they fit each other, and the classes of a task."""

from __future__ import annotations

from functools import partial
from typing import Any, Sequence

from torch import Tensor

from ..core.errors import MarrowError
from ..core.source import VOID, Source, Unreadable
from .combine import Wrapped

CHUNK = 64


class Misfit(MarrowError):
    """A mask has another size than its image."""


class Masked(Wrapped):
    """The same examples, each mask checked against its image; ids equal to `void` become `VOID`.

    names: of the class ids, from 0 on; default those of the source.
    """

    def __init__(self, base: Source, void: int | None = None, names: list[str] | None = None):
        super().__init__(base)
        self.void, self.mask_classes = void, names or base.mask_classes

    def __getitem__(self, index: int) -> dict:
        return self._checked(self.base[index], index)

    def undecoded(self, index: int) -> dict:
        return self._checked(self.base.undecoded(index), index)

    def _checked(self, example: dict, index: int) -> dict:
        if "mask" not in example:  # another part of a joined source
            return example
        mask: Tensor = example["mask"]
        (height, width), size = mask.shape, tuple(example["image"].shape[-2:])
        if (height, width) != size:
            raise Misfit(f"the mask has {width} x {height} pixels, its image {size[1]} x {size[0]}",
                         where=self.name(index))  # fmt: skip
        return example if self.void is None else {**example, "mask": mask.masked_fill(mask == self.void, VOID)}


def check_masks(source: Source, classes: int, where: str, engine: Any) -> None:
    """Raise unless every mask has the size of its image and the ids of `classes`; each is decoded once for it.

    One that cannot be read is passed over here, as the loader does later.
    """
    if source.mask_classes is not None and len(source.mask_classes) != classes:
        raise MarrowError(f"{len(source.mask_classes)} classes of the masks have names, the task knows {classes}",
                          where=where)  # fmt: skip
    chunks = [range(i, min(i + CHUNK, len(source))) for i in range(0, len(source), CHUNK)]
    largest, index = max(engine.map(partial(_largest, source), chunks))
    if largest >= classes:
        raise misfit(largest, classes, where, source.name(index))


def misfit(found: int, classes: int, where: str, name: str = "") -> MarrowError:
    """What is said about a class id that no class has."""
    whose = f"the mask of {name}" if name else "a mask"
    return MarrowError(f"{whose} has the class id {found}, the task knows 0 to {classes - 1}", where=where,
                       hint=f"If it stands for pixels of no known class, give 'void: {found}' with the source.")  # fmt: skip


def _largest(source: Source, indices: Sequence[int]) -> tuple[int, int]:
    """The largest id in these masks, and where it is."""
    found = [(VOID, indices[0])]
    for index in indices:
        try:
            found.append((int(source.undecoded(index)["mask"].max()), index))
        except Unreadable:
            continue
    return max(found, key=lambda pair: pair[0])
