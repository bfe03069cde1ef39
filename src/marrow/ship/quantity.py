"""Numbers with their units, as the report and the model card print them."""

from __future__ import annotations

import re
from typing import Any, Sequence

# Metrics that are shares of a whole, and what a reader calls them.
SHARES = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced_top1": "balanced top-1",
    "agreement": "agreement with the teacher",
    "knn_agreement": "k-NN agreement with the teacher",
    "knn_top1": "k-NN top-1",
    "chance": "by chance",
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
}
UNLABELLED = ("agreement", "knn_agreement")  # those that ask the teacher instead of labels
# Rows of a run whose names are not words.
CALLED = {"student_fp32": "student, fp32", "student_int8": "student, int8", "compare_int8": "compare, int8"}
ABSENT = "–"
UNITS = {"gb": "GB", "mb": "MB", "ms": "ms", "px": "px", "seconds": "s"}


def title(metric: str) -> str:
    """What a metric is called in print."""
    return SHARES.get(metric, metric.replace("_", " "))


def sentence(text: str) -> str:
    """With a capital letter first; the others stay as they are."""
    return text[:1].upper() + text[1:]


def explained(metric: str, n: int | None) -> str:
    """What a metric is that is no plain accuracy, in a sentence; "" for others."""
    held_out = f"{n:,} held-out images" if n else "held-out images"
    match metric:
        case "balanced_top1":
            return "Balanced top-1 is the share right of each class, averaged: a rare class counts as much as a frequent one."
        case "agreement":
            return f"Agreement is how often a model answers as the teacher does, on {held_out} without labels."
        case "knn_agreement":
            return ("k-NN agreement is how many of an image's nearest neighbours are the same by a model's features as by "
                    f"the teacher's, on {held_out}; no labels and no classes go into it.")  # fmt: skip
    return ""


def called(name: str) -> str:
    """What a row or stage is called in print."""
    return CALLED.get(name, name)


def measure(metric: str, value: float | None) -> str:
    """0.984 of top1 is "98.4 %"; another metric keeps four digits."""
    if value is None:
        return ABSENT
    return tied(f"{100 * value:.1f} %") if metric in SHARES else f"{value:.4g}"


def interval(metric: str, ends: Sequence[float] | None) -> str:
    if ends is None:
        return ""
    low, high = (f"{100 * e:.1f}" if metric in SHARES else f"{e:.4g}" for e in ends)
    return f"{low} to {high}"


def difference(metric: str, value: float) -> str:
    """A signed difference of two values of a metric: points for shares."""
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    return f"{points(value)} points" if metric in SHARES else f"{sign}{abs(value):.4g}"


def points(share: float) -> str:
    """A signed difference of two shares, short: "−4.0" points."""
    rounded = round(100 * share, 1)
    return f"{'+' if rounded > 0 else '−' if rounded < 0 else '±'}{abs(rounded):.1f}"


def count(n: float | None) -> str:
    """11689512 is "11.7 M"."""
    if n is None:
        return ABSENT
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= limit:
            return tied(f"{three(n / limit)} {unit}")
    return f"{n:g}"


def size(n: float | None) -> str:
    """Bytes, in decimal units: 44700000 is "44.7 MB"."""
    if n is None:
        return ABSENT
    return count(n) + "B" if n >= 1000 else tied(f"{n:g} B")


def milliseconds(ms: float | None) -> str:
    return ABSENT if ms is None else tied(f"{three(ms)} ms")


def minutes(value: float) -> str:
    if value < 1:
        return tied(f"{60 * value:.0f} s")
    return tied(f"{value:.1f} min" if value < 100 else f"{value / 60:.1f} h")


def ratio(value: float) -> str:
    """Any ratio: "0.85×", "1.2×", "12×"."""
    return f"{value:.{0 if value >= 9.95 else 1 if value >= 0.995 else 2}f}×"


def times(ratio: float) -> str:
    """A ratio of at least one: "6.0×"."""
    return f"{ratio:.0f}×" if ratio >= 20 else f"{ratio:.1f}×"


def three(value: float) -> str:
    """Three significant digits, trailing zeros kept so that columns line up."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def tied(text: str) -> str:
    """A number and its unit on one line: "98.4 %" never breaks before the sign."""
    return re.sub(r"(?<=\d) (?=(%|ms|min|s|h|px|points?|[kMG]?B|[kMG])\b|%)", "\N{NO-BREAK SPACE}", text)


def words(key: Any) -> str:
    """The key of a report's free fields in print: "memory_gb" is "memory, GB"."""
    *first, last = str(key).split("_")
    return " ".join(first) + ", " + UNITS[last] if first and last in UNITS else " ".join([*first, last])


def plain(value: Any) -> str:
    """Any value of a report's free fields (data, device, choices) in words."""
    match value:
        case None:
            return ABSENT
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case dict():
            return ", ".join(f"{k} {plain(v)}" for k, v in value.items())
        case list() | tuple():
            shown = ", ".join(plain(v) for v in value[:12])
            return f"{shown} and {len(value) - 12} more" if len(value) > 12 else shown
    return str(value)
