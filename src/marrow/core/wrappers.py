"""What a method puts around a model: Frozen (teacher), EMA (momentum copy), taps (inner activations)."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Callable

import torch
from torch import nn

from .contracts import Backbone
from .errors import MarrowError, near


class Frozen(nn.Module):
    """A teacher: always eval, never optimised, never saved, moved along with its method.

    Gradients still flow through it; write `no_grad` where that is meant. With `batch_stats` its BatchNorm layers use
    the batch's statistics and leave their buffers alone (SSLD's reference does so).
    """

    def __init__(self, module: nn.Module, batch_stats: bool = False):
        super().__init__()
        module.requires_grad_(False).eval()
        self.batch_stats = batch_stats
        if batch_stats:
            for m in module.modules():
                if isinstance(m, nn.modules.batchnorm._BatchNorm):
                    m.training, m.track_running_stats = True, False
        # Kept out of the module tree: its weights are in no state dict and no optimiser, and train() passes it by.
        object.__setattr__(self, "module", module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def _apply(self, fn: Callable, recurse: bool = True) -> "Frozen":
        self.module._apply(fn, recurse)
        return super()._apply(fn, recurse)


class EMA(nn.Module):
    """A momentum copy: w <- decay * w + (1 - decay) * source; buffers are taken over as they are."""

    def __init__(self, source: nn.Module):
        super().__init__()
        self.module = deepcopy(source).requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update(self, source: nn.Module, decay: float) -> None:
        mine, theirs = list(self.module.parameters()), [p.detach() for p in source.parameters()]
        if mine:
            torch._foreach_lerp_(mine, theirs, 1.0 - decay)
        for b, s in zip(self.module.buffers(), source.buffers()):
            b.copy_(s)


class taps:
    """Reads inner activations: `with taps(model, "blocks.8.attn.qkv") as t: model(x); t["blocks.8.attn.qkv"]`.

    Names start at the backbone's own net. A name that runs several times keeps its last output.
    """

    def __init__(self, model: nn.Module, *names: str):
        root = model.root if isinstance(model, Backbone) else model
        known = dict(root.named_modules())
        for name in names:
            if name not in known:
                raise MarrowError(f"no module '{name}' in {type(root).__name__}{near(name, known)}", where="taps")
        self._modules = {name: known[name] for name in names}
        self._out: dict[str, Any] = {}

    def __enter__(self) -> dict[str, Any]:
        def keep(name: str) -> Callable:
            return lambda module, args, output: self._out.__setitem__(name, output)

        self._hooks = [m.register_forward_hook(keep(name)) for name, m in self._modules.items()]
        return self._out

    def __exit__(self, *exc: Any) -> None:
        for hook in self._hooks:
            hook.remove()
