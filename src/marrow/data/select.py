"""Choosing examples of a source: by content hash, by class, by index, by what another source holds."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from ..core.errors import MarrowError, near
from ..core.source import Source
from .combine import Subset
from .hashing import of_group, salted


class Draw:
    """The number in [0, 1) that decides about each example.

    Without salt it is the content hash, or that of the group's name, stretched where `within` says which range of it is
    left, so that a tenth of a split is a tenth. With salt it is another one.
    """

    def __init__(self, salt: str | None = None, within: tuple[float, float] = (0.0, 1.0)):
        self.salt, self.within = salt, within

    def __call__(self, source: Source) -> np.ndarray:
        values = np.fromiter((_place(source, i) for i in range(len(source))), np.float64, len(source))
        if self.salt is not None:
            return np.array([salted(v, self.salt) for v in values.tolist()])
        low, high = self.within
        return (values - low) / (high - low)


CONTENT = Draw()


def fractions(source: Source) -> np.ndarray:
    return np.fromiter((source.fraction(i) for i in range(len(source))), np.float64, len(source))


def _place(source: Source, index: int) -> float:
    group = source.group(index)
    return source.fraction(index) if group is None else of_group(group)


def in_range(source: Source, low: float, high: float, draw: Draw = CONTENT) -> Subset:
    """The examples drawn in [low, high); equal content, or a group, is always on the same side of a cut."""
    values = draw(source)
    return Subset(source, np.flatnonzero((values >= low) & (values < high)))


def per_class(source: Source, count: int, where: str, draw: Draw = CONTENT) -> Subset:
    """`count` examples of each class, lowest draw first."""
    members = _members(source, where)
    for name, found in zip(source.classes or [], members):
        if len(found) < count:
            raise MarrowError(f"class '{name}' has {len(found)} examples, {count} are asked for", where=where)
    return _lowest(source, members, [count] * len(members), draw)


def share(source: Source, part: float, where: str, draw: Draw = CONTENT) -> Subset:
    """This share of each class, or of everything without labels; at least one example, lowest draw first."""
    members = [np.arange(len(source))] if source.classes is None else _members(source, where)
    return _lowest(source, members, [max(1, round(part * len(found))) for found in members], draw)


def only(source: Source, names: Sequence[str], where: str) -> Subset:
    """The examples of these classes; labels count them in the order of the data set."""
    if source.classes is None:
        raise MarrowError("classes are chosen by name, but the source has no labels", where=where)
    for name in names:
        if name not in source.classes:
            raise MarrowError(f"unknown class '{name}'{near(name, source.classes)}", where=where)
    kept = [c for c in source.classes if c in names]
    wanted = {source.classes.index(c) for c in kept}
    return Subset(source, [i for i in range(len(source)) if source.label(i) in wanted], kept)


def numbered(source: Source, names: Sequence[str], where: str) -> Subset:
    """All examples, with labels that count these names: some may have no example here, but none may be missing there."""
    if source.classes is None:
        raise MarrowError(
            "the images have no labels", where=where, hint="Put each class into a sub-folder of its name."
        )
    if foreign := [c for c in source.classes if c not in names]:
        shown = ", ".join(f"'{c}'" for c in foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
        raise MarrowError(f"there are images of {shown}, which the training images do not have{near(foreign[0], names)}",
                          where=where)  # fmt: skip
    return Subset(source, range(len(source)), list(names))


def without(source: Source, others: Source) -> Subset:
    """What is not in the other source: neither the same content, which may lie under another there, nor the same group."""
    content = {others.underneath(i) for i in range(len(others))}
    groups = {others.group(i) for i in range(len(others))} - {None}
    kept = [i for i in range(len(source)) if source.fraction(i) not in content and source.group(i) not in groups]
    return Subset(source, kept)


def by_index(source: Source, indices: Sequence[int], where: str) -> Subset:
    if len(indices) and not (0 <= min(indices) and max(indices) < len(source)):
        raise MarrowError(f"indices reach from {min(indices)} to {max(indices)}, the source has {len(source)} examples "
                          f"(0 to {len(source) - 1})", where=where)  # fmt: skip
    return Subset(source, indices)


def _members(source: Source, where: str) -> list[np.ndarray]:
    if source.classes is None:
        raise MarrowError("the source has no labels to count by class", where=where)
    labels = np.fromiter((source.label(i) for i in range(len(source))), np.int64, len(source))
    return [np.flatnonzero(labels == c) for c in range(len(source.classes))]


def _lowest(source: Source, members: Sequence[np.ndarray], counts: Sequence[int], draw: Draw) -> Subset:
    values = draw(source)
    kept = [found[np.argsort(values[found], kind="stable")[:count]] for found, count in zip(members, counts)]
    return Subset(source, np.sort(np.concatenate(kept)))
