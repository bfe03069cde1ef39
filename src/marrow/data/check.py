"""What a source must be to learn a classifier from it."""

from __future__ import annotations

from ..core.errors import MarrowError
from ..core.source import Source
from .classes import class_counts


def check_labelled(source: Source, where: str) -> None:
    """Raise unless there are labels, two or more classes, and two or more images of each."""
    if source.classes is None:
        raise MarrowError("the images have no labels", where=where,
                          hint="Put each class into a sub-folder of its name.")  # fmt: skip
    if len(source.classes) < 2:
        raise MarrowError(f"there is only one class, '{source.classes[0]}'; two or more are needed", where=where)
    few = [f"'{name}' ({count})" for name, count in class_counts(source).items() if count < 2]
    if few:
        shown = ", ".join(few[:3]) + (f" and {len(few) - 3} more" if len(few) > 3 else "")
        raise MarrowError(f"each class needs two images or more; too few in {shown}", where=where)
