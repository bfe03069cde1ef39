"""Aligned plain text for a terminal."""

from __future__ import annotations

import shutil
import textwrap
from typing import Any, Mapping, Sequence


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None, width: int | None = None) -> str:
    """Rows under their column names; numbers to the right, the last column of text wrapped to the terminal."""
    if not rows:
        return ""
    columns = list(columns or dict.fromkeys(k for row in rows for k in row))
    cells = [[words(row.get(c)) for c in columns] for row in rows]
    numeric = [all(isinstance(r.get(c), (int, float, type(None))) for r in rows) for c in columns]
    widths = [max(len(c), *(len(line[i]) for line in cells)) for i, c in enumerate(columns)]
    left = sum(widths[:-1]) + 2 * (len(columns) - 1)
    room = max(24, (width or shutil.get_terminal_size((100, 24)).columns) - left)

    def line(texts: Sequence[str]) -> str:
        aligned = [t.rjust(w) if n else t.ljust(w) for t, w, n in zip(texts, widths, numeric)]
        if not numeric[-1]:
            aligned[-1] = textwrap.fill(texts[-1], room).replace("\n", "\n" + " " * left)
        return "  ".join(aligned).rstrip()

    return "\n".join([line(columns), *map(line, cells)])


def pairs(values: Mapping[str, Any]) -> str:
    """One `name  value` a line."""
    widest = max(map(len, values), default=0)
    return "\n".join(f"{k.ljust(widest)}  {words(v)}" for k, v in values.items())


def words(value: Any) -> str:
    """A value as a reader wants it: thousands separated, four digits after the point at most, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {words(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return ", ".join(words(v) for v in value)
    return str(value)
