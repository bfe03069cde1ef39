"""How many channels a stage of a backbone has, and how large its map is."""

from __future__ import annotations

import torch
from torch.func import functional_call

from ..core.contracts import Backbone


def map_channels(backbone: Backbone, stage: int = -1) -> int:
    return map_shape(backbone, stage)[0]


def map_shape(backbone: Backbone, stage: int = -1) -> tuple[int, int, int]:
    """(C, H, W), found out by running the backbone once without memory, on the meta device; it gives "maps"."""
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    modes = [(m, m.training) for m in backbone.modules()]
    backbone.eval()
    with torch.no_grad(), torch.device("meta"):
        image = torch.empty(1, backbone.input.channels, *backbone.input.size)
        [found] = functional_call(backbone, state, (image,), {"maps": (stage,)}).maps
    for module, mode in modes:
        module.training = mode
    return tuple(found.shape[1:])
