"""Narrower tensors in the modules of a model, and modules that know about it: no tracing, no data, any device."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..core.contracts import Backbone
from ..core.errors import MarrowError

# What an edit may set, by class of the module or one it derives from. A net's own are those of "Net".
ATTRIBUTES: dict[str, frozenset[str]] = {
    "_ConvNd": frozenset({"in_channels", "out_channels", "groups"}),
    "Linear": frozenset({"in_features", "out_features"}),
    "_NormBase": frozenset({"num_features"}),
    "LayerNorm": frozenset({"normalized_shape"}),
    "GroupNorm": frozenset({"num_groups", "num_channels"}),
    "Attention": frozenset({"num_heads", "head_dim", "attn_dim", "scale"}),
    "SpatialReductionAttention": frozenset({"heads"}),
    "SelfAttention": frozenset({"heads"}),
    "GhostModule": frozenset({"out_chs"}),
    "ClassifierHead": frozenset({"in_features", "num_features"}),
    "NormMlpClassifierHead": frozenset({"in_features", "num_features"}),
    "Backbone": frozenset({"dim"}),
    "Net": frozenset({"num_features", "head_hidden_size", "num_chs"}),
}


@torch.no_grad()
def slice_model(
    model: nn.Module,
    channels: Sequence[str],
    tensors: Mapping[str, Sequence[int | None]],
    attributes: Mapping[str, Mapping[str, Any]],
) -> None:
    """Change the model as an edit says, whose fields these are; what does not fit the model, or is not on the list, raises.

    "num_chs" of a backbone's net is what its `feature_info` says of its stages.
    """
    modules = dict(model.named_modules())
    for name, positions in tensors.items():
        place, _, own = name.rpartition(".")
        tensor = getattr(modules.get(place), own, None)
        if not isinstance(tensor, Tensor) or tensor.ndim < len(positions):
            raise MarrowError(f"the model has no tensor '{name}' of {len(positions)} dimensions", where="tensors")
        for dim, position in enumerate(positions):
            if position is not None:
                if position not in range(len(channels)):
                    raise MarrowError(f"'{name}' names set {position!r} of {len(channels)}", where="tensors")
                kept = _indices(channels[position], tensor.shape[dim], name)
                tensor = tensor.index_select(dim, torch.tensor(kept, device=tensor.device))
        _replace(modules[place], own, tensor)
    nets = {id(m.root) for m in modules.values() if isinstance(m, Backbone)}
    for name, values in attributes.items():
        for key, value in values.items():
            module = modules.get(name)
            if module is None or key not in attributes_of(module, id(module) in nets):
                raise MarrowError(f"'{key}' of '{name}' is not for an edit to set", where="attributes")
            _set(module, key, value)


def attributes_of(module: nn.Module, net: bool = False) -> frozenset[str]:
    """The names that an edit may set on a module; `net`: it is the root of a backbone."""
    classes = [c.__name__ for c in type(module).__mro__]
    return frozenset().union(*(ATTRIBUTES.get(c, frozenset()) for c in [*classes, *(["Net"] if net else [])]))


def ranges(indices: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2 5"; ascending."""
    runs: list[list[int]] = []
    for i in indices:
        if runs and runs[-1][1] == i - 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return " ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _indices(text: str, size: int, name: str) -> list[int]:
    """The inverse of `ranges`, refused unless it ascends within 0..size - 1."""
    found: list[int] = []
    for part in text.split():
        low, _, high = part.partition("-")
        last = high or low
        if not (low.isdecimal() and last.isdecimal() and (found[-1] if found else -1) < int(low) <= int(last) < size):
            raise MarrowError(f"'{part}' are no channels of '{name}', which has {size}", where="channels")
        found += range(int(low), int(last) + 1)
    if not found:
        raise MarrowError(f"no channel of '{name}' is left", where="channels")
    return found


def _replace(module: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(module, name)
    setattr(module, name, nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor)


def _set(module: nn.Module, key: str, value: Any) -> None:
    value = tuple(value) if isinstance(value, (list, tuple)) else value
    if not all(type(number) in (int, float) for number in (value if isinstance(value, tuple) else (value,))):
        raise MarrowError(f"{value!r} is no number and no list of numbers", where=f"attributes.{key}")
    if key == "num_chs":
        stages = vars(module).get("feature_info", [])
        if not isinstance(value, tuple) or len(value) != len(stages):
            raise MarrowError(f"the net has {len(stages)} stages, got {value!r}", where="attributes.num_chs")
        module.feature_info = [{**stage, "num_chs": width} for stage, width in zip(stages, value)]
        return
    if key == "dim" and isinstance(module, Backbone) and module.dim != value:
        module.classifier = None  # it read the features as they were
    setattr(module, key, value)
