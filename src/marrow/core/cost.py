"""What a model costs, whole and layer by layer: parameters, multiply-accumulates of one example, bytes of its weights."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from .clip_input import ClipInput
from .contracts import Backbone, Input, Task


class Cost(NamedTuple):
    params: int
    macs: int | None  # None where one example cannot be made up from `Input`: anything but images and clips
    bytes: int


class Layer(NamedTuple):
    """A module with parameters or MACs of its own, those of its children left out."""

    name: str  # from the root of the backbone, so that a net and what was made of it line up
    kind: str
    params: int
    macs: int | None


def cost(model: nn.Module) -> Cost:
    """The cost of a backbone or a task at batch 1 and its own input size; runs on the meta device and changes nothing.

    MACs are half of torch's count of floating-point operations: convolutions, matrix products and attention, not
    element-wise work.
    """
    saved = model.state_dict().values()
    return Cost(
        params=sum(p.numel() for p in model.parameters()),
        macs=sum(_macs(model).values()) if _input(model).modality in ("image", "video") else None,
        bytes=sum(t.numel() * t.element_size() for t in saved),
    )


def layers(model: nn.Module) -> list[Layer]:
    """Where the cost of a backbone or a task lies, in the order of its modules; the sums are those of `cost`.

    Mostly the innermost modules. Others are there for what they do or hold themselves: attention between its projections,
    position embeddings. A parameter that two modules share counts for the first.
    """
    macs = _macs(model) if _input(model).modality in ("image", "video") else None
    names, seen, found = _short_names(model), set(), []
    for full, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, own))
        layer = Layer(names[full], type(module).__name__, sum(p.numel() for p in own), macs[full] if macs else None)
        if layer.params or layer.macs:
            found.append(layer)
    return found


def paired(before: nn.Module, after: nn.Module) -> list[dict[str, Any]]:
    """Layers of the same name side by side, [before, after] for params and macs; None where one side has no such layer."""
    old, new = ({layer.name: layer for layer in layers(model)} for model in (before, after))
    names, place = list(old), 0
    for name in new:
        if name not in old:  # behind its predecessor
            names.insert(place, name)
        place = names.index(name) + 1
    rows = []
    for name in names:
        both = old.get(name), new.get(name)
        kind = next(layer.kind for layer in both if layer)
        rows.append({"name": name, "kind": kind, "params": [layer and layer.params for layer in both],
                     "macs": [layer and layer.macs for layer in both]})  # fmt: skip
    return rows


def _short_names(model: nn.Module) -> dict[str, str]:
    """Full name -> name from the root of the only backbone; the full one where the short one is taken."""
    modules = dict(model.named_modules())
    roots = {m.root for m in modules.values() if isinstance(m, Backbone)}
    root = next((name for name, m in modules.items() if roots == {m}), "")
    short = {}
    for name in modules:
        inner = name.removeprefix(f"{root}.") if root else name
        short[name] = name if inner != name and inner in modules else inner
    return {**short, "": "(whole)", root: "(root)"}


def _input(model: nn.Module) -> Input:
    if isinstance(model, (Backbone, Task)):
        return model.input
    raise TypeError(f"{type(model).__name__} is neither a backbone nor a task")


def _macs(model: nn.Module) -> Counter[str]:
    """Module name -> what is computed in it and in none of its children, over one run on the meta device."""
    input = _input(model)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {k: torch.empty_like(v, device="meta") for k, v in tensors.items()}
    was_training = {m: m.training for m in model.modules()}
    names = {module: name for name, module in model.named_modules()}
    own, inside = Counter(dict.fromkeys(names.values(), 0)), [""]
    counter = FlopCounterMode(display=False)

    def charge() -> None:
        """What was computed since a module was last entered or left belongs to the innermost one."""
        own[inside[-1]] += counter.get_total_flops() // 2 - own.total()

    def enter(module: nn.Module, args: Any) -> None:
        charge()
        inside.append(names[module])

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        charge()
        inside.pop()

    model.eval()
    with ExitStack() as hooks, torch.no_grad(), torch.device("meta"), counter:
        for module in names:
            hooks.enter_context(module.register_forward_pre_hook(enter))
            hooks.enter_context(module.register_forward_hook(leave))
        frames = (input.frames,) if isinstance(input, ClipInput) else ()
        one = model.example() if isinstance(model, Task) else torch.empty(1, *frames, input.channels, *input.size)
        functional_call(model, state, (one,))
    for module, mode in was_training.items():
        module.training = mode
    return own
