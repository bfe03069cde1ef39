"""Sizes and lengths that follow from the data: pixels, batch, steps."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any, Callable

from ..core.errors import MarrowError
from ..core.source import Source, Unreadable

if TYPE_CHECKING:
    from .wishes import Wishes

Choose = Callable[[str, Any, str], Any]  # (what, value, reason) -> value, noted for the report

LOOKED_AT = 64  # images opened to find out how large they are
LARGEST = 128  # pixels, which two cores can train
PASSES, FEWEST, MOST = 20, 150, 2000
SHORTEST = 50  # steps, below which a training comes to nothing
LONG = 500  # steps from which on a training may stop early


def image_size(wishes: Wishes, known: Source, embedded: bool, teachers: int | None, choose: Choose) -> int:
    """Pixels of a side. teachers: what the given teacher works at, which is enough: it knows nothing finer."""
    if wishes.img_size:
        return wishes.img_size
    if embedded:
        return choose("img_size", 32, "the digits are stored at 32 px")
    sides = []
    for i in range(0, len(known), max(1, len(known) // LOOKED_AT)):
        try:
            sides.append(min(known[i]["image"].shape[-2:]))
        except Unreadable:
            continue
    if not sides:
        raise MarrowError("none of the images looked at can be read", where="--data")
    middle = statistics.median(sides)
    size = min(LARGEST, max(32, int(middle) // 32 * 32))
    if teachers and teachers < size:
        return choose("img_size", teachers, f"the teacher works at {teachers} px")
    return choose("img_size", size,
                  f"the median short side is {middle:.0f} px; at most {LARGEST}, which two cores can train")  # fmt: skip


def usual_batch(count: int) -> int:
    """The largest power of two up to a tenth of the images, within 8 and 64."""
    return min(64, max(8, 2 ** ((count // 10).bit_length() - 1 if count >= 10 else 0)))


def steps_of(wishes: Wishes, count: int, batch: int, embedded: bool, choose: Choose) -> dict[str, int]:
    """Steps of the teacher, the head alone (probe), the student and its baseline, and the recovery after pruning."""
    if wishes.epochs:
        student = teacher = max(1, round(wishes.epochs * count / batch))
    elif embedded:
        choose("steps", "150 and 250", "teacher and student; by then the accuracy on validation images levels off")
        teacher, student = 150, 250
    else:
        student = teacher = min(MOST, max(FEWEST, PASSES * count // batch))
        choose("steps", student, f"{PASSES} passes over the images, between {FEWEST} and {MOST:,} steps")
    recovery = 100 if embedded and not wishes.epochs else max(1, student // 2)
    return {"teacher": teacher, "probe": max(1, teacher // 2), "student": student, "recovery": recovery}


def measuring(steps: int) -> dict[str, Any]:
    """When a training is measured on validation images; a long one ends when four measurements brought nothing."""
    return {"evaluate_percent": 10, "patience": 4} if steps >= LONG else {"evaluate_percent": 20}
