"""What a model costs: parameters, multiply-accumulates of one example, bytes of its weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from .contracts import Backbone, Input, Task


class Cost(NamedTuple):
    params: int
    macs: int | None  # None where one example cannot be made up from `Input`: anything but images
    bytes: int


def cost(model: nn.Module) -> Cost:
    """The cost of a backbone or a task at batch 1 and its own input size; runs on the meta device and changes nothing.

    MACs are half of torch's count of floating-point operations: convolutions, matrix products and attention, not
    element-wise work.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    saved = model.state_dict().values()
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=_macs(model, tensors) if _input(model).modality == "image" else None,
        bytes=sum(t.numel() * t.element_size() for t in saved),
    )


def _input(model: nn.Module) -> Input:
    if isinstance(model, (Backbone, Task)):
        return model.input
    raise TypeError(f"{type(model).__name__} is neither a backbone nor a task")


def _macs(model: nn.Module, tensors: dict[str, torch.Tensor]) -> int:
    input = _input(model)
    state = {k: torch.empty_like(v, device="meta") for k, v in tensors.items()}
    was_training = {m: m.training for m in model.modules()}
    model.eval()
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        image = torch.empty(1, input.channels, *input.size)
        functional_call(model, state, ({"image": image} if isinstance(model, Task) else image,))
    for module, mode in was_training.items():
        module.training = mode
    return counter.get_total_flops() // 2
