"""Sources made of sources: a part of one, several joined, one without its labels."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.errors import MarrowError
from ..core.source import Skipped, Source


class Subset(Source):
    """Some examples of a source, in the given order; with `classes`, labels are renumbered to these names."""

    def __init__(self, base: Source, indices: Sequence[int] | np.ndarray, classes: list[str] | None = None):
        self.base, self.indices = base, np.asarray(indices, np.int64)
        self.classes = classes if classes is not None else base.classes
        self.mask_classes = base.mask_classes
        self._renumbered = None
        if base.classes is not None and classes is not None:
            self._renumbered = {base.classes.index(c): i for i, c in enumerate(classes) if c in base.classes}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self._numbered(self.base[int(self.indices[index])])

    def undecoded(self, index: int) -> dict:
        return self._numbered(self.base.undecoded(int(self.indices[index])))

    def _numbered(self, example: dict) -> dict:
        if self._renumbered is not None:
            example["label"] = self._renumbered[example["label"]]
        return example

    def fraction(self, index: int) -> float:
        return self.base.fraction(int(self.indices[index]))

    def underneath(self, index: int) -> float:
        return self.base.underneath(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.base.name(int(self.indices[index]))

    def label(self, index: int) -> int | None:
        label = self.base.label(int(self.indices[index]))
        return label if self._renumbered is None or label is None else self._renumbered[label]

    def group(self, index: int) -> str | None:
        return self.base.group(int(self.indices[index]))

    def stored(self, index: int) -> bytes | None:
        return self.base.stored(int(self.indices[index]))

    def stored_mask(self, index: int) -> bytes | None:
        return self.base.stored_mask(int(self.indices[index]))

    def skipped(self) -> tuple[Skipped, ...]:
        return self.base.skipped()

    def order(self, generator: torch.Generator) -> Tensor:
        """The base's order with the others left out, so that what is close on disk stays close."""
        rank = torch.empty(len(self.base), dtype=torch.long)
        rank[self.base.order(generator)] = torch.arange(len(self.base))
        return rank[torch.from_numpy(self.indices)].argsort(stable=True)


class Wrapped(Source):
    """The examples of another source; what derives from it says what is different."""

    def __init__(self, base: Source):
        self.base, self.classes, self.mask_classes = base, base.classes, base.mask_classes

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> dict:
        return self.base[index]

    def undecoded(self, index: int) -> dict:
        return self.base.undecoded(index)

    def fraction(self, index: int) -> float:
        return self.base.fraction(index)

    def underneath(self, index: int) -> float:
        return self.base.underneath(index)

    def name(self, index: int) -> str:
        return self.base.name(index)

    def label(self, index: int) -> int | None:
        return self.base.label(index)

    def group(self, index: int) -> str | None:
        return self.base.group(index)

    def stored(self, index: int) -> bytes | None:
        return self.base.stored(index)

    def stored_mask(self, index: int) -> bytes | None:
        return self.base.stored_mask(index)

    def skipped(self) -> tuple[Skipped, ...]:
        return self.base.skipped()

    def order(self, generator: torch.Generator) -> Tensor:
        return self.base.order(generator)


class Unlabelled(Wrapped):
    """The same examples without `label`."""

    def __init__(self, base: Source):
        super().__init__(base)
        self.classes = None

    def __getitem__(self, index: int) -> dict:
        return {k: v for k, v in self.base[index].items() if k != "label"}

    def undecoded(self, index: int) -> dict:
        return {k: v for k, v in self.base.undecoded(index).items() if k != "label"}

    def label(self, index: int) -> None:
        return None


class Joined(Source):
    """Several sources one after another. If any has no labels, none is given: a batch has the same fields throughout."""

    def __init__(self, parts: Sequence[Source], where: str = "data"):
        named = [p.classes for p in parts if p.classes is not None]
        for other in named[1:]:
            if other != named[0]:
                raise MarrowError(
                    f"the joined sources have different classes: {', '.join(named[0])} and {', '.join(other)}",
                    where=where,
                )
        masks = [p.mask_classes for p in parts if p.mask_classes is not None]
        for other in masks[1:]:
            if other != masks[0]:
                raise MarrowError(f"the joined sources name the ids of their masks differently: {', '.join(masks[0])} and "
                                  f"{', '.join(other)}", where=where)  # fmt: skip
        self.mask_classes = masks[0] if masks else None
        labelled = len(named) == len(parts)
        self.parts = [p if labelled or p.classes is None else Unlabelled(p) for p in parts]
        self.classes = named[0] if labelled else None
        self._ends = list(accumulate(len(p) for p in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def _at(self, index: int) -> tuple[Source, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._ends, index)
        return self.parts[part], index - (self._ends[part - 1] if part else 0)

    def __getitem__(self, index: int) -> dict:
        source, at = self._at(index)
        return source[at]

    def undecoded(self, index: int) -> dict:
        source, at = self._at(index)
        return source.undecoded(at)

    def fraction(self, index: int) -> float:
        source, at = self._at(index)
        return source.fraction(at)

    def underneath(self, index: int) -> float:
        source, at = self._at(index)
        return source.underneath(at)

    def name(self, index: int) -> str:
        source, at = self._at(index)
        return source.name(at)

    def label(self, index: int) -> int | None:
        source, at = self._at(index)
        return source.label(at)

    def group(self, index: int) -> str | None:
        source, at = self._at(index)
        return source.group(at)

    def stored(self, index: int) -> bytes | None:
        source, at = self._at(index)
        return source.stored(at)

    def stored_mask(self, index: int) -> bytes | None:
        source, at = self._at(index)
        return source.stored_mask(at)

    def skipped(self) -> tuple[Skipped, ...]:
        return tuple(s for part in self.parts for s in part.skipped())

    def order(self, generator: torch.Generator) -> Tensor:
        """The parts' orders, merged at random; each keeps its own sequence."""
        starts = [0, *self._ends[:-1]]
        owner = torch.cat([torch.full((len(p),), i) for i, p in enumerate(self.parts)])
        owner = owner[torch.randperm(len(self), generator=generator)]
        order = torch.empty(len(self), dtype=torch.long)
        for i, part in enumerate(self.parts):
            order[owner == i] = starts[i] + part.order(generator)
        return order
