"""What the masks of a data set hold, and what is wrong with them, for `marrow data`."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

from .core.source import VOID
from .data.looked import Looked
from .findings import HELD_OUT, Row, finding, shown

MOST_VOID = 0.5
FAR = 10


def facts(splits: Mapping[str, Looked]) -> dict[str, dict[str, Any]]:
    """For each split with masks: how many were looked at, the share of void pixels, and that of each id in the others."""
    found: dict[str, dict[str, Any]] = {}
    for split, look in splits.items():
        if look.masks:
            known = {i: n for i, n in sorted(look.ids.items()) if i != VOID}
            pixels = max(1, sum(known.values()))
            found[split] = {"masks": look.masks, "void": round(look.ids[VOID] / max(1, look.ids.total()), 4),
                            "ids": {str(i): round(n / pixels, 6) for i, n in known.items()}}  # fmt: skip
    return found


def rows(masks: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A line for void and each id, a column for each split."""
    ids = sorted({int(i) for about in masks.values() for i in about["ids"]})
    lines = [{"pixels of": "void", **{split: about["void"] for split, about in masks.items()}}]
    return lines + [{"pixels of": f"id {i}", **{split: about["ids"].get(str(i)) for split, about in masks.items()}}
                    for i in ids]  # fmt: skip


def mask_findings(splits: Mapping[str, Looked]) -> Iterator[Row]:
    masked = {split: look for split, look in splits.items() if look.masks or look.misfits}
    if not masked:
        return
    if wrong := [(split, sentence) for split, look in masked.items() for sentence in look.misfits]:
        yield finding("error", "masks of another size than their images", len(wrong), (f"{s}: {t}" for s, t in wrong),
                      "A mask has the size of its image; scale it by nearest neighbour, or fetch it again.")  # fmt: skip
    if bare := [split for split, look in splits.items() if split not in masked and look.fractions.size]:
        yield finding("warning", "splits without masks", len(bare), bare, "Nothing can be learnt or measured on them.")
    empty = [(split, name) for split, look in masked.items() for name in look.all_void]
    if empty:
        yield finding("warning", "masks in which every pixel is void", len(empty), (f"{s}: {n}" for s, n in empty),
                      "Leave these images out; nothing is learnt from them.")  # fmt: skip
    learnt = next((look for split, look in masked.items() if split not in HELD_OUT), None)
    for split, look in masked.items():
        if learnt is not None and split in HELD_OUT and (new := sorted(set(look.ids) - set(learnt.ids) - {VOID})):
            yield finding("warning", f"class ids in masks of {split} that no mask to learn from has", len(new),
                          map(str, new), "Add images of them; they count as wrong wherever they are.")  # fmt: skip
        if look.ids[VOID] > MOST_VOID * look.ids.total():
            yield finding("warning", f"more than half of the pixels in {split} are void", 1,
                          [f"{look.ids[VOID] / look.ids.total():.0%}"], "Is the right id given as void?")  # fmt: skip
    ids = sorted({i for look in masked.values() for i in look.ids if i != VOID})
    if len(ids) > 1 and ids[-1] - ids[-2] >= FAR:
        yield finding("note", f"a class id far from the others: {shown(str(ids[-1]))} after {ids[-2]}", 1, [],
                      f"If it stands for pixels of no known class, give 'void: {ids[-1]}' with the source.")  # fmt: skip
