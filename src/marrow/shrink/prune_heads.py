"""Which heads and hidden units of a plain vision transformer stay. Its structure is known, so nothing is traced."""

from __future__ import annotations

from timm.layers import Attention, Mlp
from torch import Tensor, nn

from ..nn.channels import kept_count, strongest
from .prune_trace import Kept, Values


def cut_heads(net: nn.Module, prefix: str, ratio: float, round_to: int) -> tuple[Kept, Values]:
    """What stays of every tensor of `net`, whose place in the model is `prefix`; tokens keep their width."""
    kept: Kept = {}
    values: Values = {}
    for name, module in net.named_modules(prefix=prefix):
        if type(module) is Attention:
            _attention(name, module, ratio, kept, values)
        elif type(module) is Mlp and isinstance(module.fc1, nn.Linear):
            _mlp(name, module, ratio, round_to, kept, values)
    return kept, values


def _attention(name: str, module: Attention, ratio: float, kept: Kept, values: Values) -> None:
    heads, width = module.num_heads, module.head_dim
    count = kept_count(heads, ratio, 1)
    if count == heads:
        return
    score = _rows(module.qkv.weight).view(3, heads, width).sum((0, 2))  # (heads,)
    score += _rows(module.proj.weight.T).view(heads, width).sum(1)
    stays = [head * width + i for head in strongest(score, count) for i in range(width)]
    inner = count * width
    _outputs(f"{name}.qkv", module.qkv, [part * heads * width + i for part in range(3) for i in stays], kept, values)
    _inputs(f"{name}.proj", module.proj, stays, kept, values)
    if isinstance(gate := dict(module.named_children()).get("gate"), nn.Linear):  # younger than some timm that fit
        _outputs(f"{name}.gate", gate, stays, kept, values)
    if not isinstance(module.norm, nn.Identity):
        _norm(f"{name}.norm", module.norm, stays, kept, values)
    values[name] = {"num_heads": count, "head_dim": width, "attn_dim": inner, "scale": module.scale}


def _mlp(name: str, module: Mlp, ratio: float, round_to: int, kept: Kept, values: Values) -> None:
    hidden = module.fc1.out_features
    count = kept_count(hidden, ratio, round_to)
    if count == hidden:
        return
    stays = strongest(_rows(module.fc1.weight) + _rows(module.fc2.weight.T), count)
    _outputs(f"{name}.fc1", module.fc1, stays, kept, values)
    _inputs(f"{name}.fc2", module.fc2, stays, kept, values)
    if not isinstance(module.norm, nn.Identity):
        _norm(f"{name}.norm", module.norm, stays, kept, values)


def _rows(weight: Tensor) -> Tensor:
    return weight.detach().float().square().sum(1)


def _outputs(name: str, layer: nn.Linear, stays: list[int], kept: Kept, values: Values) -> None:
    kept[f"{name}.weight"] = (stays,)
    if layer.bias is not None:
        kept[f"{name}.bias"] = (stays,)
    values[name] = {"in_features": layer.in_features, "out_features": len(stays)}


def _inputs(name: str, layer: nn.Linear, stays: list[int], kept: Kept, values: Values) -> None:
    kept[f"{name}.weight"] = (None, stays)
    values[name] = {"in_features": len(stays), "out_features": layer.out_features}


def _norm(name: str, layer: nn.Module, stays: list[int], kept: Kept, values: Values) -> None:
    for own, _ in layer.named_parameters(recurse=False):
        kept[f"{name}.{own}"] = (stays,)
    values[name] = {"normalized_shape": (len(stays),)}
