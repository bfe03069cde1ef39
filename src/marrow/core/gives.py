"""The words of `gives`, found by running a backbone once without memory, on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention, AttentionRope
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import nn

from .contracts import Backbone
from .limits import running

# Every token attends to every other with queries, keys and values of its heads, which `nn/block_attention.py` reads.
TOKEN_ATTENTION = (Attention, AttentionRope, BeitAttention, EvaAttention, RelPosAttention)


def found(backbone: Backbone, has_maps: bool) -> set[str]:
    """has_maps: whether the net can be asked for stages at all; that they are maps is seen here."""
    size = (1, backbone.input.channels, *backbone.input.size)
    state = {**dict(backbone.named_parameters()), **dict(backbone.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in state.items()}
    was_training = {m: m.training for m in backbone.modules()}

    def run(**asked: Any) -> Any:
        return torch.func.functional_call(backbone, state, torch.empty(size), asked)

    backbone.eval()
    name = backbone.spec.get("source", ":the edited net").partition(":")[2]
    with running(name, backbone.input.size, "backbone"), torch.no_grad(), torch.device("meta"):
        out = run()
        gives = {"pooled"} if out.pooled.shape == (1, backbone.dim) else set()
        if out.tokens is not None:
            gives.add("tokens")
        if has_maps and all(m.ndim == 4 for m in run(maps=(0, -1)).maps):
            gives.add("maps")
    for module, mode in was_training.items():
        module.training = mode
    names = dict(backbone.root.named_modules())
    if isinstance(names.get("blocks.0.attn"), TOKEN_ATTENTION):
        gives.add("qkv")
    if any(isinstance(m, nn.ReLU) for m in names.values()):
        gives.add("relu")
    return gives | set(getattr(backbone.root, "also_gives", ()))  # what no run can show, such as "slimmable"
