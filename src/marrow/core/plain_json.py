"""JSON files that may come from anywhere: no more bytes and levels than asked for, no key twice, no NaN or Infinity."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from .errors import MarrowError

LARGEST_META = 8 * 2**20  # bytes of an artifact.json
MOST_NESTING = 200  # of artifact.json: an edit on an edit takes two levels


def read(file: Path, where: str, most: int) -> Any:
    """The value in a file of at most `most` bytes."""
    if (size := file.stat().st_size) > most:
        raise MarrowError(f"{file.name} has {size:,} bytes, more than {most:,}", where=where)
    try:
        value = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=_distinct, parse_constant=_no_constant,
                           parse_float=_finite)  # fmt: skip
    except (ValueError, RecursionError) as error:
        raise MarrowError(f"{file.name} is not JSON as marrow writes it ({error})", where=where) from None
    if _levels(value) > MOST_NESTING:
        raise MarrowError(f"{file.name} is nested more than {MOST_NESTING} levels deep", where=where)
    return value


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(k for k, count in Counter(k for k, _ in pairs).items() if count > 1)
        raise ValueError(f"'{twice}' is given twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number that a float can hold")
    return number


def _levels(value: Any) -> int:
    """Counted level by level, without recursion, which hostile depth would exhaust."""
    levels, layer = 0, [value]
    while layer:
        inner = [v.values() if isinstance(v, dict) else v for v in layer if isinstance(v, (dict, list))]
        layer = [x for values in inner for x in values]
        levels += 1
    return levels
