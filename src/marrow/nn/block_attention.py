"""What the attention in the blocks of a plain ViT works on: tokens, queries, keys and values."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator, NamedTuple, Sequence

import torch
from einops import rearrange
from timm.layers import Attention, apply_rot_embed_cat
from timm.models.beit import Attention as BeitAttention
from timm.models.eva import EvaAttention
from timm.models.vision_transformer_relpos import RelPosAttention
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..core.contracts import Backbone
from ..core.errors import MarrowError
from ..core.fit_check import lacking
from .map_channels import map_shape

# Features that a block's attention does not get, and the module in the block that says them.
SAID = {"attention": ".attn", "mlp": ".mlp", "block": ""}
FEATURES = ("input", "q", "k", "v", *SAID)


class Attended(NamedTuple):
    """One block's; q and k as they are multiplied: normalised and rotated where the net does so."""

    x: Tensor  # (B, N, C), the tokens that enter the attention, prefix tokens first
    q: Tensor  # (B, heads, N, d)
    k: Tensor
    v: Tensor


class Plan(NamedTuple):
    """What is known of a ViT before it runs."""

    depth: int
    prefix: int  # class token, registers
    patches: int
    heads: int
    width: int  # of q over all heads
    grid: tuple[int, int] | None  # of the patches; None where the net gives no maps


def split(attention: nn.Module, x: Tensor, rope: Tensor | None = None, heads: int | None = None) -> Attended:
    """Queries, keys and values of tokens (B, N, C) by one of timm's attention layers; `heads` cuts them differently."""
    if isinstance(attention.qkv, nn.Linear):
        bias = attention.qkv.bias
        if isinstance(attention, (BeitAttention, EvaAttention)) and attention.q_bias is not None:
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
        parts = F.linear(x, attention.qkv.weight, bias).chunk(3, -1)
    else:
        parts = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    width = parts[0].shape[-1] // (heads or attention.num_heads)
    q, k, v = (rearrange(part, "b n (h d) -> b h n d", d=width) for part in parts)
    if not isinstance(attention, BeitAttention):
        q, k = attention.q_norm(q), attention.k_norm(k)
    if rope is not None:
        first, half = attention.num_prefix_tokens, attention.rotate_half
        q, k = (torch.cat([each[:, :, :first], apply_rot_embed_cat(each[:, :, first:], rope, half=half)], 2).type_as(v)
                for each in (q, k))  # fmt: skip
    if shared := q.shape[1] // k.shape[1] - 1:  # several heads of q to one of k and v
        k, v = (each.repeat_interleave(shared + 1, 1) for each in (k, v))
    return Attended(x, q, k, v)


class _Reached(Exception):
    """Ends a forward at the last block that is asked for."""


@contextmanager
def attended(
    backbone: Backbone, blocks: Sequence[int], heads: int | None = None, stop: bool = False, feature: str = "input"
) -> Iterator[dict[int, Attended]]:
    """Fills a dict, block -> what its attention gets, while the backbone runs inside; with `stop` it runs no further.

    feature: one of FEATURES, which the last of the blocks has in the place of x: what enters the attention, "q", "k" or
    "v" of all heads side by side, what "attention" or "mlp" says before layer scale and drop path, or what the "block"
    says.
    """
    if backbone.training and backbone.root.grad_checkpointing:
        raise MarrowError("this method reads inside the blocks, and gradient checkpointing runs them a second time "
                          "without it", where="checkpoint_gradients",
                          hint="Give `micro_batch` to save memory.")  # fmt: skip
    with _hooked(backbone, blocks, heads, stop, feature) as found:
        yield found


@contextmanager
def _hooked(
    backbone: Backbone, blocks: Sequence[int], heads: int | None, stop: bool, feature: str
) -> Iterator[dict[int, Attended]]:
    found: dict[int, Attended] = {}
    last = max(blocks, default=0)

    def keep(block: int) -> Any:
        def hook(attention: nn.Module, args: tuple, kwargs: dict) -> None:
            tokens = found[block] = split(attention, args[0], kwargs.get("rope"), heads)
            if block == last and feature in ("q", "k", "v"):
                found[block] = tokens._replace(x=rearrange(getattr(tokens, feature), "b h n d -> b n (h d)"))
            if stop and block == last and feature not in SAID:
                raise _Reached

        return hook

    def said(module: nn.Module, args: tuple, out: Tensor) -> None:
        found[last] = found[last]._replace(x=out)
        if stop:
            raise _Reached

    layers = {block: backbone.root.get_submodule(f"blocks.{block}.attn") for block in blocks}
    hooks = [layer.register_forward_pre_hook(keep(block), with_kwargs=True) for block, layer in layers.items()]
    if feature in SAID:
        hooks.append(backbone.root.get_submodule(f"blocks.{last}{SAID[feature]}").register_forward_hook(said))
    try:
        yield found
    except _Reached:
        pass
    finally:
        for hook in hooks:
            hook.remove()


def up_to(
    backbone: Backbone, image: Tensor, blocks: Sequence[int], heads: int | None = None, feature: str = "input"
) -> dict[int, Attended]:
    """What the attention of these blocks gets; nothing behind the last one's queries, keys and values is computed.

    With a `feature`, as in `attended`, nothing behind that. It goes past `torch.compile`, which would keep the hooks of
    the first step.
    """
    with attended(backbone, blocks, heads, stop=True, feature=feature) as found:
        backbone.features(image)
    return found


def plan_of(backbone: Backbone, where: str) -> Plan:
    """Found out on the meta device; raises where the net gives no "qkv"."""
    stem, _, role = where.partition(".")
    if sentence := lacking(stem, role, {"qkv"}, backbone):
        raise MarrowError(sentence, where=where)
    first, _ = _on_meta(backbone, 0)
    net, (_, heads, tokens, width) = backbone.root, first.q.shape
    grid = map_shape(backbone)[1:] if "maps" in backbone.gives else None
    return Plan(len(net.blocks), net.num_prefix_tokens, tokens - net.num_prefix_tokens, heads, heads * width, grid)


def block_index(index: int | float, plan: Plan, where: str) -> int:
    """0-based: from the end where it is negative; a float is the share of all blocks of which it is the last."""
    if isinstance(index, float):
        if not 0 < index <= 1 or not round(index * plan.depth):
            raise MarrowError(f"{index} of {plan.depth} blocks ends with none of them; a share is above 0 and up to 1",
                              where=where, hint="A whole number counts blocks.")  # fmt: skip
        return round(index * plan.depth) - 1
    if not -plan.depth <= index < plan.depth:
        raise MarrowError(
            f"there is no block {index} in a net of {plan.depth}, which are 0 to {plan.depth - 1}", where=where
        )
    return index % plan.depth


def freeze_behind(backbone: Backbone, block: int, parts: str, feature: str = "input") -> None:
    """Take the gradient from every weight that x, q, k, v (letters of `parts`) of this block do not depend on.

    What no loss reaches would otherwise wait for a gradient in every process of a parallel training. x is `feature`.
    """
    found, weights = _on_meta(backbone, block, feature)
    total = torch.stack([getattr(found, part).sum() for part in parts]).sum()
    gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    reached = {name for name, gradient in zip(weights, gradients) if gradient is not None}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in reached)


def feature_width(backbone: Backbone, plan: Plan, feature: str) -> int:
    return plan.width if feature in ("q", "k", "v") else backbone.root.get_submodule("blocks.0.attn.proj").out_features


def check_same_grid(student: Plan, teacher: Plan, where: str) -> None:
    """Raise unless the patches are as many in each direction, or in all where one of the nets has no grid."""
    theirs, mine = (teacher.patches,), (student.patches,)
    if teacher.grid and student.grid:
        theirs, mine = teacher.grid, student.grid
    if theirs != mine:
        said = [" x ".join(map(str, each)) for each in (theirs, mine)]
        raise MarrowError(f"teacher {said[0]} patch tokens, student {said[1]}: they need the same grid, image size "
                          "over patch size", where=where)  # fmt: skip


def check_class_token(backbone: Backbone, where: str) -> None:
    """Raise unless there is one; timm's is the first of the prefix tokens."""
    if not any(name.endswith("cls_token") for name, _ in backbone.root.named_parameters()):
        raise MarrowError("a class token is compared, and this net has none", where=where, hint="Try target: block.")


def check_heads(student: Backbone, block: int, plan: Plan, heads: int, where: str) -> None:
    """Raise unless a block's queries, keys and values can be cut into as many heads as a teacher has."""
    if heads == plan.heads:
        return
    attention = student.root.get_submodule(f"blocks.{block}.attn")
    if plan.width % heads:
        raise MarrowError(f"the teacher has {heads} heads, into which the student's width {plan.width} cannot be cut",
                          where=where)  # fmt: skip
    normalised = any("_norm." in name for name, _ in attention.named_parameters())
    if normalised or not isinstance(attention, (Attention, BeitAttention, RelPosAttention)):
        raise MarrowError(f"the teacher has {heads} heads, the student {plan.heads}, and its queries are "
                          f"{'normalised' if normalised else 'rotated'} head by head, so it keeps its number", where=where)  # fmt: skip


def check_bare(backbone: Backbone, where: str) -> None:
    """Raise where the attention map is more than the softmax of q k^T."""
    if isinstance(backbone.root.get_submodule("blocks.0.attn"), (BeitAttention, RelPosAttention)):
        name, reader = backbone.spec["source"].removeprefix("timm:"), where.split(".")[0]
        raise MarrowError(f"{reader} needs attention that queries and keys decide; {name} adds a bias of relative positions",
                          where=where, hint="Try vit_*, deit_*, eva02_*.")  # fmt: skip


def without_prefix(tokens: Attended, prefix: int) -> Attended:
    """Without the first tokens, before any softmax."""
    return Attended(tokens.x[:, prefix:], *(part[:, :, prefix:] for part in tokens[1:]))


def _on_meta(backbone: Backbone, block: int, feature: str = "input") -> tuple[Attended, dict[str, Tensor]]:
    """`up_to` one block without memory, and the weights (by name) that took part with a gradient."""
    weights = {n: torch.empty_like(p, device="meta").requires_grad_(p.requires_grad)
               for n, p in backbone.named_parameters()}  # fmt: skip
    buffers = {n: torch.empty_like(b, device="meta") for n, b in backbone.named_buffers()}
    with torch.device("meta"), _hooked(backbone, [block], None, True, feature) as found:
        functional_call(backbone, {**weights, **buffers}, torch.empty(2, backbone.input.channels, *backbone.input.size))
    return found[block], {n: w for n, w in weights.items() if w.requires_grad}
