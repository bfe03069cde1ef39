"""Where the models of a run err, for its page: recall of each class, the confusion matrix, pictures."""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any, Mapping, Sequence

from ..core.errors import MarrowError
from . import plots, quantity

MATRIX = 20  # classes; a larger confusion matrix is told by its most frequent confusions alone
CONFUSIONS = 8


def per_class(given: Sequence[Mapping[str, Any]] | None, ship: str | None, colour: str) -> dict[str, Any] | None:
    """The recall of each class by every model, what the shipped one loses most against the teacher first.

    Without a teacher's recall (its own answers are what is asked for) the classes that it gets worst come first.
    """
    models = list(dict.fromkeys(name for row in given or () for name in row["recall"]))
    if not models:
        return None
    ours = ship if ship is not None and ship in models else models[-1]
    against = "teacher" if "teacher" in models and ours != "teacher" else ""
    others = [name for name in models if name != ours]
    lines = [_class(row, others, ours, against, colour) for row in given or ()]
    lines.sort(key=lambda line: line["worst"])
    return {"others": others, "ours": ours, "against": against, "rows": lines}


def _class(row: Mapping[str, Any], others: Sequence[str], ours: str, against: str, colour: str) -> dict[str, Any]:
    recall = row["recall"]
    mine, theirs = recall.get(ours), recall.get(against)
    gap = None if mine is None or theirs is None else mine - theirs
    order = gap if against else mine
    return {
        "name": str(row["class"]),
        "n": row["n"],
        "mine": _recall(mine),
        "others": [_recall(recall.get(name)) for name in others],
        "gap": cell(gap, "" if gap is None else quantity.points(gap)),
        "lost": gap is not None and gap < 0,
        "bar": plots.bar(mine, theirs, colour),
        "worst": (order is None, order or 0.0, mine or 0.0),
    }


def _recall(share: float | None) -> dict[str, Any]:
    return cell(share, quantity.measure("top1", share))


def cell(sort: Any, text: str) -> dict[str, Any]:
    """A table's cell: what is printed, and what it is sorted by."""
    return {"sort": "" if sort is None else sort, "text": text or quantity.ABSENT}


def confusion(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The matrix with a shade for every cell, and its most frequent confusions."""
    if not given:
        return None
    counts, labels = given["counts"], [str(label) for label in given["labels"]]
    totals = [sum(line) for line in counts]
    worst = sorted(
        ((n, i, j) for i, line in enumerate(counts) for j, n in enumerate(line) if i != j and n), reverse=True
    )[:CONFUSIONS]
    lines = []
    if len(labels) <= MATRIX:
        lines = [[{"n": n, "shade": shade(n, totals[i]), "right": i == j} for j, n in enumerate(line)]
                 for i, line in enumerate(counts)]  # fmt: skip
    pairs = [{"true": labels[i], "called": labels[j], "n": n, "of": totals[i]} for n, i, j in worst]
    return {"labels": labels, "lines": lines, "pairs": pairs, "of": given.get("of", ""), "n": sum(totals),
            "heads": labels if all(len(label) <= 3 for label in labels) else list(range(1, len(labels) + 1)),
            "numbered": any(len(label) > 3 for label in labels)}  # fmt: skip


def shade(n: int, total: int) -> int:
    """0 (none) to 9 (all) of a class; one image is never invisible."""
    return 0 if not n else max(1, round(9 * (n / total) ** 0.5))


def thumbnails(given: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Images as data addresses with their own size, so that the page keeps its shape. Without a label both answers are told."""
    shown = []
    for image in given or ():
        png = image["png"]
        if png[:8] != b"\x89PNG\r\n\x1a\n":
            raise MarrowError("a thumbnail is not a PNG image", where="report")
        width, height = struct.unpack(">II", png[16:24])
        label, student = image["label"], image["student"]
        first, second = str(label), f"called {student}"
        if label is None:
            first, second = f"teacher: {image['teacher']}", f"student: {student}"
        shown.append({"source": "data:image/png;base64," + b64encode(png).decode(), "small": max(width, height) < 64,
                      "width": width, "height": height, "first": first, "second": second,
                      "labelled": label is not None})  # fmt: skip
    return shown
