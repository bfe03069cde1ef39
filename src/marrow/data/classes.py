"""How many examples a source has of each class."""

from __future__ import annotations

from collections import Counter
from typing import Mapping

from ..core.source import Source

IMBALANCE = 5  # largest to smallest class


def class_counts(source: Source) -> dict[str, int]:
    """Examples of each class, without decoding any; empty without labels."""
    counts = Counter(source.label(i) for i in range(len(source))) if source.classes else Counter()
    return {name: counts[i] for i, name in enumerate(source.classes or [])}


def rare(counts: Mapping[str, int]) -> list[str]:
    """The classes that are much smaller than the largest, but not empty."""
    largest = max(counts.values(), default=0)
    return [name for name, count in counts.items() if 0 < count * IMBALANCE <= largest]


def imbalanced(counts: Mapping[str, int]) -> bool:
    """Whether plain accuracy would hide how the small classes fare."""
    return bool(rare(counts))
