"""Which heads and hidden units stay in nets whose structure is known, so that nothing is traced: ViT, PVT, ViT-Res, EMO."""

from __future__ import annotations

from typing import Mapping

from timm.layers import Attention, Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..backbones.emo import EMO, IRMB
from ..backbones.pvt import PyramidVisionTransformer, SpatialReductionAttention
from ..backbones.vit_res_blocks import SelfAttention
from ..backbones.vit_resnas import VitRes
from ..nn.channels import kept_count, strongest
from .prune_trace import Kept, Values

KNOWN = (VisionTransformer, PyramidVisionTransformer, VitRes, EMO)


def cut_heads(net: nn.Module, prefix: str, ratio: float, round_to: int) -> tuple[Kept, Values]:
    """What stays of every tensor of `net`, whose place in the model is `prefix`; tokens keep their width."""
    kept: Kept = {}
    values: Values = {}
    for name, module in net.named_modules(prefix=prefix):
        if type(module) is Attention:
            _attention(name, module, ratio, kept, values)
        elif type(module) is SpatialReductionAttention:
            _heads(name, module, module.heads, {"q": 1, "kv": 2}, ratio, kept, values)
        elif type(module) is SelfAttention:
            _heads(name, module, module.heads, {"qkv": 3}, ratio, kept, values)
        elif type(module) is Mlp and isinstance(module.fc1, nn.Linear):
            _mlp(name, module, ratio, round_to, kept, values)
        elif type(module) is IRMB and isinstance(module.v, nn.Sequential):
            _mobile_block(name, module, ratio, round_to, kept, values)
    return kept, values


def _heads(
    name: str, module: nn.Module, heads: int, layers: Mapping[str, int], ratio: float, kept: Kept, values: Values
) -> list[int]:
    """The channels of the heads that stay; none where all do. layers: of queries, keys and values, with how many it makes."""
    width, count = module.proj.in_features // heads, kept_count(heads, ratio, 1)
    if count == heads:
        return []
    score = _rows(module.proj.weight.T).view(heads, width).sum(1)  # (heads,)
    for layer, parts in layers.items():
        score = score + _rows(module.get_submodule(layer).weight).view(parts, heads, width).sum((0, 2))
    stays = [head * width + i for head in strongest(score, count) for i in range(width)]
    for layer, parts in layers.items():
        all_parts = [part * heads * width + i for part in range(parts) for i in stays]
        _outputs(f"{name}.{layer}", module.get_submodule(layer), all_parts, kept, values)
    _inputs(f"{name}.proj", module.proj, stays, kept, values)
    values[name] = {"heads": count}
    return stays


def _attention(name: str, module: Attention, ratio: float, kept: Kept, values: Values) -> None:
    """timm's, whose options and attributes are more."""
    width = module.head_dim
    stays = _heads(name, module, module.num_heads, {"qkv": 3}, ratio, kept, values)
    if not stays:
        return
    if isinstance(gate := dict(module.named_children()).get("gate"), nn.Linear):  # younger than some timm that fit
        _outputs(f"{name}.gate", gate, stays, kept, values)
    if not isinstance(module.norm, nn.Identity):
        _norm(f"{name}.norm", module.norm, stays, kept, values)
    inner = len(stays)
    values[name] = {"num_heads": inner // width, "head_dim": width, "attn_dim": inner, "scale": module.scale}


def _mobile_block(name: str, module: IRMB, ratio: float, round_to: int, kept: Kept, values: Values) -> None:
    """EMO's: the expanded channels, which a depthwise convolution sees one by one. Attention works before they are."""
    expand, local, project = module.v.conv, module.conv_local, module.proj
    hidden = expand.out_channels
    count = kept_count(hidden, ratio, round_to)
    if count == hidden:
        return
    score = _rows(expand.weight.flatten(1)) + _rows(local.conv.weight.flatten(1)) + _rows(project.weight.flatten(1).T)
    stays = strongest(score, count)
    norm = (f"conv_local.norm.{each}" for each in ("weight", "bias", "running_mean", "running_var"))
    for own in ("v.conv.weight", "v.conv.bias", "conv_local.conv.weight", *norm):
        kept[f"{name}.{own}"] = (stays,)
    kept[f"{name}.proj.weight"] = (None, stays)
    values[f"{name}.v.conv"] = {"out_channels": count}
    values[f"{name}.conv_local.conv"] = {"in_channels": count, "out_channels": count, "groups": count}
    values[f"{name}.conv_local.norm"] = {"num_features": count}
    values[f"{name}.proj"] = {"in_channels": count}


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
