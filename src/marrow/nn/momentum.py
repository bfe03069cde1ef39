"""How slowly a momentum copy follows its net in the course of a training."""

from __future__ import annotations

import math


def momentum_at(progress: float, first: float = 0.99) -> float:
    """From `first` at progress 0 to 1 at progress 1, along a cosine (BYOL): in the end the copy stands still."""
    return 1.0 - (1.0 - first) * (math.cos(math.pi * progress) + 1.0) / 2.0
