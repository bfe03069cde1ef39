"""Which maps of a backbone make a pyramid for dense prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from ..core.contracts import Backbone
from ..core.errors import MarrowError
from ..core.wrappers import taps

QUARTER = 3.5  # maps of a stride under it are too fine to be worth their cost, where there are others


class Level(NamedTuple):
    stage: int
    channels: int
    stride: float  # of the picture's height


def pyramid(backbone: Backbone, where: str) -> list[Level]:
    """The last map of every size, finest first, from a quarter of the picture's size on; all where fewer than two are.

    Found out by running the backbone once without memory, on the meta device.
    """
    if "maps" not in backbone.gives:
        raise MarrowError(f"'maps' are needed from the backbone; this one gives {', '.join(sorted(backbone.gives))}",
                          where=where, hint="Try resnet*, convnext_*, swin_*.")  # fmt: skip
    maps, _ = _run(backbone, tuple(range(backbone.stages)), ())
    height = backbone.input.size[0]
    levels = {tuple(m.shape[-2:]): Level(i, m.shape[1], height / m.shape[-2]) for i, m in enumerate(maps)}
    ordered = sorted(levels.values(), key=lambda level: level.stride)
    coarse = [level for level in ordered if level.stride >= QUARTER]
    return coarse if len(coarse) > 1 else ordered


def inner_map(backbone: Backbone, name: str, where: str) -> tuple[int, bool]:
    """Of the map that the inner module `name` makes: its channels, and whether they come last, as (B, H, W, C)."""
    _, inner = _run(backbone, (), (name,))
    found, (height, width) = inner.get(name), backbone.input.size
    shape = tuple(found.shape) if isinstance(found, Tensor) else ()
    for h, w, channels in ((2, 3, 1), (1, 2, 3)):
        # A map has the picture's proportions, up to rounding by one.
        if len(shape) == 4 and abs(shape[h] * width - shape[w] * height) <= max(height, width):
            return shape[channels], channels == 3
    raise MarrowError(f"'{name}' makes no map (B, C, H, W) or (B, H, W, C) but {shape or type(found).__name__}",
                      where=where)  # fmt: skip


def _run(backbone: Backbone, stages: tuple[int, ...], names: tuple[str, ...]) -> tuple[tuple[Tensor, ...], dict]:
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    modes = [(m, m.training) for m in backbone.modules()]
    backbone.eval()
    with torch.no_grad(), torch.device("meta"), taps(backbone, *names) as inner:
        image = torch.empty(1, backbone.input.channels, *backbone.input.size)
        maps = functional_call(backbone, state, (image,), {"maps": stages}).maps
    for module, mode in modes:
        module.training = mode
    return maps, inner
