"""ResNet-RS: how deep, how wide and at what resolution, under a budget.

Bello et al., "Revisiting ResNets: Improved Training and Scaling Strategies", NeurIPS 2021, sec. 5. The networks are timm's
`resnetrs50` to `resnetrs420`; what is here is the paper's two rules for choosing among such networks:

1. Scale depth where a network can over-fit, that is in long schedules, and width in short ones.
2. Scale the resolution slowly: 160 to 320 pixels over a range of budgets in which EfficientNets go up to 600.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import MarrowError, near

FAMILIES = {  # depth -> timm name
    "resnetrs": {depth: f"resnetrs{depth}" for depth in (50, 101, 152, 200, 270, 350, 420)},
    "resnet": {depth: f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    "resnetd": {depth: f"resnet{depth}d" for depth in (18, 34, 50, 101, 152, 200)},
    "eca_resnet": {depth: f"eca_resnet{depth}" for depth in (18, 34, 50, 101, 152)},
}
CHANNELS = (64, 128, 256, 512)
WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
# Rule 2, read off the paper's networks: the most multiply-adds at which a resolution is used.
RESOLUTIONS = ((5e9, 160), (12e9, 192), (24e9, 224), (70e9, 256), (float("inf"), 320))
SMALLER = (128, 96, 64, 32)  # below the paper's range, where nothing fits at 160
# The paper has schedules of 10 epochs, where width wins, and of 100 and 350, where depth does.
LONG = 100


class Proposal(NamedTuple):
    """A network of a family, and why this one. `backbone` is what a recipe says."""

    depth: int
    width: float
    resolution: int
    macs: int
    params: int
    backbone: dict[str, Any]
    why: str


def scale(family: str, budget: float, *, epochs: float = 350, resolution: int | None = None) -> Proposal:
    """The largest network of a family within `budget` multiply-adds an image, grown as the paper says.

    epochs: passes over the data; from 100 on depth grows first, before that width does. resolution: where the pictures
    have one; otherwise rule 2 chooses. Raises where nothing fits, with the nearest.
    """
    if family not in FAMILIES:
        raise MarrowError(f"unknown family '{family}'{near(family, FAMILIES)}", where="scale.family")
    if budget <= 0 or epochs <= 0:
        raise MarrowError(
            f"a budget of {budget:g} multiply-adds and {epochs:g} epochs is not a positive one", where="scale"
        )
    if resolution is None:
        first = next(side for most, side in RESOLUTIONS if budget <= most)
        sides = [first, *(side for _, side in reversed(RESOLUTIONS) if side < first), *SMALLER]
    else:
        sides = [resolution]
    long = epochs >= LONG
    for side in sides:
        found = _deepest(family, budget, side) if long else _widest(family, budget, side)
        if found:
            depth, width = found
            macs, params = _cost(family, depth, width, side)
            rule = (
                f"{epochs:g} epochs are {'long enough to over-fit: depth' if long else 'a short training: width'} first"
            )
            return Proposal(depth, width, side, macs, params, _spec(family, depth, width, side),
                            f"{rule}; {side} px" + (" as given" if resolution else " for this budget"))  # fmt: skip
    depth, side = min(FAMILIES[family]), sides[-1]
    least = _cost(family, depth, WIDTHS[0], side)[0]
    raise MarrowError(f"no {family} costs {budget:.3g} multiply-adds; the nearest, depth {depth} at width {WIDTHS[0]} and "
                      f"{side} px, costs {least:.3g}", where="scale.budget")  # fmt: skip


def _deepest(family: str, budget: float, side: int) -> tuple[int, float] | None:
    """(depth, width): the deepest of width 1 that fits, else the widest of the shallowest."""
    fitting = _while_it_fits(family, budget, side, [(depth, 1.0) for depth in sorted(FAMILIES[family])])
    return fitting or _while_it_fits(family, budget, side, [(min(FAMILIES[family]), w) for w in WIDTHS if w < 1])


def _widest(family: str, budget: float, side: int) -> tuple[int, float] | None:
    """(depth, width): the widest of the shallowest; a deeper one where that is as wide as it gets."""
    best = None
    for depth in sorted(FAMILIES[family]):
        found = _while_it_fits(family, budget, side, [(depth, w) for w in WIDTHS])
        if found is None or (best and found[1] < best[1]):
            break
        best = found
        if found[1] < WIDTHS[-1]:
            break
    return best


def _while_it_fits(family: str, budget: float, side: int, growing: list[tuple[int, float]]) -> tuple[int, float] | None:
    best = None
    for depth, width in growing:
        if _cost(family, depth, width, side)[0] > budget:
            break
        best = (depth, width)
    return best


def _spec(family: str, depth: int, width: float, side: int) -> dict[str, Any]:
    """Without `channels` at width 1, so that published weights fit."""
    wide = {} if width == 1 else {"channels": [int(width * c) for c in CHANNELS]}
    return {"backbone": FAMILIES[family][depth], "img_size": side, **wide}


@lru_cache(maxsize=512)
def _cost(family: str, depth: int, width: float, side: int) -> tuple[int, int]:
    """(multiply-adds of one image, parameters), without the classifier."""
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        channels = _spec(family, depth, width, side).get("channels", list(CHANNELS))
        net = timm.create_model(FAMILIES[family][depth], num_classes=0, channels=tuple(channels)).eval()
        net(torch.empty(1, 3, side, side))
    return counter.get_total_flops() // 2, sum(p.numel() for p in net.parameters())
