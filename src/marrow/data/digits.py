"""The embedded data set: 1,797 hand-written digits, real data that comes with scikit-learn."""

from __future__ import annotations

import torch
from torch.nn.functional import interpolate

from ..core.table import Table
from .tables import TableSource

SIZE = 32


def digits() -> TableSource:
    """8x8 grey pictures of 0 to 9, enlarged once to (3, 32, 32) uint8; the hash is that of the 64 stored values."""
    from sklearn.datasets import load_digits

    stored = load_digits()
    small = torch.from_numpy(stored.images).float()  # (N, 8, 8), whole numbers 0..16
    large = interpolate(small[:, None] * (255 / 16), (SIZE, SIZE), mode="bicubic", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    table = Table({"image": images, "label": torch.from_numpy(stored.target).long()}, [str(i) for i in range(10)])
    return TableSource(table, "digits", content=small.to(torch.uint8))
