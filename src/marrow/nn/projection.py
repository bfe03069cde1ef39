"""The small nets between a backbone and a loss on embeddings; they are dropped after training."""

from __future__ import annotations

from torch import nn

from ..core.errors import MarrowError


def projection(inside: int, hidden: int, out: int, *, places: bool = False) -> nn.Sequential:
    """Two linear layers with a BatchNorm and a ReLU between, on (B, inside); `places`: on each place of (B, inside, H, W)."""
    if places:
        return nn.Sequential(nn.Conv2d(inside, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True),
                             nn.Conv2d(hidden, out, 1))  # fmt: skip
    return nn.Sequential(
        nn.Linear(inside, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, out)
    )


def check_widths(where: str, **widths: int) -> None:
    """Raise unless a layer can be as wide as each of these arguments of `where` says."""
    for name, width in widths.items():
        if width < 1:
            raise MarrowError(f"a width of {width} is below 1", where=f"{where}.{name}")
