"""Many sub-nets of a ViT-Res in one forward: each example of a batch runs through its own, cut out by masks.

Multi-architectural sampling of ViT-ResNAS (sec. 3.3). The masks are put on from outside for the length of a forward, so the net
knows nothing of them and every task trains.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, NamedTuple, Sequence

import torch
from torch import Tensor, nn

from ..nn.masked_layer_norm import masked_layer_norm
from .vit_res_blocks import SelfAttention
from .vit_resnas import VitRes
from .vit_resnas_space import Architecture, SearchSpace


class BlockMasks(NamedTuple):
    heads: Tensor  # (B, 1, heads * d)
    hidden: Tensor  # (B, 1, hidden units)
    kept: Tensor  # (B, 1, 1)


class Masks(NamedTuple):
    """Ones where an example's sub-net has a channel, zeros elsewhere."""

    dims: tuple[Tensor, ...]  # (B, 1, C) a stage
    blocks: tuple[tuple[BlockMasks, ...], ...]


class Ranks(NamedTuple):
    """The place of every head (heads,) and hidden unit (m,) of a block in the order of importance, 0 the first."""

    heads: Tensor
    hidden: Tensor


def sampled(space: SearchSpace, count: int, warmth: float, rng: torch.Generator) -> list[Architecture]:
    """`count` sub-nets, in which each width comes equally often.

    warmth: how much of the space is in use, 0 the largest sub-net alone, 1 all. Every gene takes its values in turn, in an
    order drawn for it.
    """
    genes = []
    for choices in space.choices:
        allowed = choices[: min(1 + int(warmth * (len(choices) - 1) + 1e-9), len(choices))]
        order = torch.randperm(len(allowed), generator=rng).tolist()
        genes.append([allowed[order[i % len(order)]] for i in range(count)])
    return [space.architecture(own) for own in zip(*genes)]


def masks_of(net: VitRes, architectures: Sequence[Architecture], ranks: Sequence[Sequence[Ranks]], each: int) -> Masks:
    """Masks of a batch whose first `each` examples run through the first sub-net, and so on."""
    device = ranks[0][0].heads.device

    def column(rank: Tensor, widths: Sequence[int], repeated: int = 1) -> Tensor:
        on = rank < torch.tensor(widths, device=device)[:, None]
        return on.float().repeat_interleave(repeated, 1).repeat_interleave(each, 0)[:, None]

    dims = tuple(
        column(torch.arange(d, device=device), [a.dims[i] for a in architectures]) for i, d in enumerate(net.dims)
    )
    blocks = []
    for i, stage in enumerate(ranks):
        found = []
        for j, rank in enumerate(stage):
            own = [next(((h, m, 1) for at, h, m in a.blocks[i] if at == j), (0, 0, 0)) for a in architectures]
            heads, hidden, kept = zip(*own)
            found.append(BlockMasks(column(rank.heads, heads, net.head_dims[i]), column(rank.hidden, hidden),
                                    column(torch.zeros(1, device=device), kept)))  # fmt: skip
        blocks.append(tuple(found))
    return Masks(dims, tuple(blocks))


@contextmanager
def masked(net: VitRes, masks: Masks) -> Iterator[None]:
    """Inside, every example that goes through the net goes through its own sub-net."""
    with ExitStack() as hooks:

        def after(module: nn.Module, does: Any) -> None:
            hooks.enter_context(module.register_forward_hook(does))

        def inside(module: nn.Module, mask: Tensor) -> None:
            hooks.enter_context(module.register_forward_pre_hook(lambda _, x: (x[0] * mask,)))

        def norm(module: nn.Module, mask: Tensor) -> None:
            after(module, lambda m, x, _: masked_layer_norm(x[0], m.weight, m.bias, mask, m.eps))

        def out(module: nn.Module, mask: Tensor) -> None:
            after(module, lambda m, x, y: y * mask)

        for i, (stage, dim) in enumerate(zip(net.stages, masks.dims)):
            if i:
                norm(stage.first.norm, masks.dims[i - 1])
            out(stage.first, dim)
            for block, own in zip(stage.blocks, masks.blocks[i]):
                norm(block.norm1, dim)
                norm(block.norm2, dim)
                inside(block.attn.proj, own.heads)
                inside(block.mlp.fc2, own.hidden)
                out(block.attn, dim * own.kept)
                out(block.mlp, dim * own.kept)
        norm(net.norm, masks.dims[-1])
        yield


def head_importance(attn: SelfAttention) -> Tensor:
    """(heads,): the absolute sum of a head's rows of q, k and v, their biases, and its columns of the projection."""
    qkv = (attn.qkv.weight.abs().sum(1) + attn.qkv.bias.abs()).unflatten(0, (3, attn.heads, -1)).sum((0, 2))
    return qkv + attn.proj.weight.abs().sum(0).unflatten(0, (attn.heads, -1)).sum(1)


def hidden_importance(mlp: nn.Module) -> Tensor:
    """(m,): the absolute sum of a hidden unit's row, its bias, and its column of the second layer."""
    return mlp.fc1.weight.abs().sum(1) + mlp.fc1.bias.abs() + mlp.fc2.weight.abs().sum(0)


def order(importance: Tensor) -> Tensor:
    """Indices, the most important first; equal ones as they stand."""
    return importance.argsort(descending=True, stable=True)


@torch.no_grad()
def rearrange_heads(attn: SelfAttention, order: Tensor) -> None:
    """Put the heads into another order, which changes nothing of what comes out."""
    for tensor in (attn.qkv.weight, attn.qkv.bias):
        tensor.copy_(tensor.unflatten(0, (3, attn.heads, -1))[:, order].flatten(0, 2))
    attn.proj.weight.copy_(attn.proj.weight.unflatten(1, (attn.heads, -1))[:, order].flatten(1))


@torch.no_grad()
def rearrange_hidden(mlp: nn.Module, order: Tensor) -> None:
    """Put the hidden units into another order, which changes nothing of what comes out."""
    for tensor in (mlp.fc1.weight, mlp.fc1.bias):
        tensor.copy_(tensor[order])
    mlp.fc2.weight.copy_(mlp.fc2.weight[:, order])
