"""A source whose names tell which examples belong together: one scene, one patient."""

from __future__ import annotations

import numpy as np

from ..core.errors import MarrowError
from ..core.source import Source
from .combine import Wrapped
from .names_matched import matched


class Grouped(Wrapped):
    """The same examples, each in the group that `pattern` finds in its name: its first bracketed part, else all it matches.

    Where it finds nothing the example stands for itself. several: whether one group for everything is a mistake, as it is
    where the source is still to be cut.
    """

    def __init__(self, base: Source, pattern: str, where: str, several: bool = True):
        super().__init__(base)
        found = matched(pattern, [base.name(i) for i in range(len(base))], where)
        self._names = sorted({name for name in found if name is not None})
        number = {name: i for i, name in enumerate(self._names)}
        self._numbers = np.array([-1 if name is None else number[name] for name in found], np.int32)
        examples = ", ".join(base.name(i) for i in range(min(3, len(base))))
        if len(base) and not self._names:
            raise MarrowError(f"'{pattern}' is in no name; names are such as {examples}", where=where)
        if several and len(self._names) == 1 and None not in found and len(base) > 1:
            raise MarrowError(f"'{pattern}' puts all {len(base)} images into one group, '{self._names[0]}'; "
                              f"names are such as {examples}", where=where)  # fmt: skip

    def group(self, index: int) -> str | None:
        number = int(self._numbers[index])
        return None if number < 0 else self._names[number]
