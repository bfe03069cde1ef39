"""How many channels a stage of a backbone has."""

from __future__ import annotations

import torch
from torch.func import functional_call

from ..core.contracts import Backbone


def map_channels(backbone: Backbone, stage: int = -1) -> int:
    """Found out by running the backbone once without memory, on the meta device; it gives "maps"."""
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    modes = [(m, m.training) for m in backbone.modules()]
    backbone.eval()
    with torch.no_grad(), torch.device("meta"):
        image = torch.empty(1, backbone.input.channels, *backbone.input.size)
        [found] = functional_call(backbone, state, (image,), {"maps": (stage,)}).maps
    for module, mode in modes:
        module.training = mode
    return found.shape[1]
