"""Which weights of a backbone a loss on its map has a gradient for."""

from __future__ import annotations

import torch
from torch.func import functional_call

from ..core.contracts import Backbone


def freeze_behind_map(backbone: Backbone, stage: int = -1) -> list[str]:
    """Turn off the gradient of weights that the map of a stage does not depend on; returns their names.

    They are a last norm, a neck before pooling, later stages. Without it several processes would wait for gradients that
    never come, and weight decay would move what nothing trains. Found by one pass on the meta device.
    """
    trained = {k: p for k, p in backbone.named_parameters() if p.requires_grad}
    meta = {k: torch.empty_like(v, device="meta").requires_grad_(k in trained)
            for k, v in backbone.named_parameters()}  # fmt: skip
    buffers = {k: torch.empty_like(v, device="meta") for k, v in backbone.named_buffers()}
    modes = [(m, m.training) for m in backbone.modules()]
    backbone.eval()
    with torch.device("meta"), torch.enable_grad():
        image = torch.empty(1, backbone.input.channels, *backbone.input.size)
        [found] = functional_call(backbone, {**meta, **buffers}, (image,), {"maps": (stage,)}).maps
    for module, mode in modes:
        module.training = mode
    gradients = torch.autograd.grad(found.sum(), [meta[k] for k in trained], allow_unused=True)
    behind = [name for name, gradient in zip(trained, gradients) if gradient is None]
    for name in behind:
        trained[name].requires_grad_(False)
    return behind
