"""Patch tokens that leave a ViT on its way: all but a few at the start, or the redundant ones after some blocks."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import Any, Iterator, Sequence

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone
from ..core.errors import MarrowError
from .block_attention import Attended


def check_loose_tokens(backbone: Backbone, where: str) -> None:
    """Raise unless tokens may leave: their positions were added to them once, and the attention knows none."""
    if {type(block.attn) for block in backbone.root.blocks} != {Attention}:
        name, method = backbone.spec["source"].removeprefix("timm:"), where.split(".")[0]
        raise MarrowError(f"{method} needs a net whose tokens can be left out; {name} has the positions of all of them "
                          "in its attention", where=where, hint="Try vit_*, deit_*.")  # fmt: skip


def check_hidden(share: float, patches: int, where: str) -> None:
    """Raise unless a share of the patches hides some of them and leaves some."""
    if not 0 < round(share * patches) < patches:
        raise MarrowError(f"a share of {share} hides {round(share * patches)} of {patches} patches; some must be "
                          "hidden and some seen", where=where)  # fmt: skip


def seen(batch: int, patches: int, hidden: float, device: torch.device | None = None) -> Tensor:
    """Random places (B, n) of the patches that stay where a share is hidden, in order, other ones for each picture."""
    count = patches - round(hidden * patches)
    return torch.rand(batch, patches, device=device).argsort(1)[:, :count].sort(1).values


def kept(x: Tensor, places: Tensor, prefix: int) -> Tensor:
    """The prefix and the patches at `places` (B, n) of tokens (B, ..., prefix + N, D)."""
    patches = x[..., prefix:, :]
    index = places.view(len(places), *(1,) * (x.ndim - 3), -1, 1).expand(*x.shape[:-2], -1, x.shape[-1])
    return torch.cat([x[..., :prefix, :], patches.gather(-2, index)], -2)


def restricted(tokens: Attended, places: Tensor, prefix: int) -> Attended:
    """A teacher's tokens that its student has too: rows and columns of relations leave before the softmax."""
    return Attended(*(kept(part, places, prefix) for part in tokens))


def least_redundant(patches: Tensor, keep: float) -> Tensor:
    """Places (B, n), in order, of the ceil(keep * N) patches (B, N, D) with the smallest mean cosine to all.

    The mean cosine of a token is its product with the mean of all unit tokens: no N x N matrix is needed.
    """
    unit = F.normalize(patches.detach().float(), dim=-1)
    alike = (unit * unit.mean(1, keepdim=True)).sum(-1)  # (B, N)
    # Rounded, since 0.7 * 10 is a little more than 7 in floating point.
    return alike.topk(math.ceil(round(keep * patches.shape[1], 6)), largest=False).indices.sort(-1).values


@contextmanager
def only(backbone: Backbone, places: Tensor | None) -> Iterator[None]:
    """While inside, the blocks see the patches at `places` (B, n) alone; all where it is None."""
    if places is None:
        yield
        return
    prefix = backbone.root.num_prefix_tokens

    def hook(norm: nn.Module, args: tuple, out: Tensor) -> Tensor:
        return kept(out, places, prefix)

    # The last module before the blocks, and outside of what gradient checkpointing runs a second time.
    handle = backbone.root.norm_pre.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def dropping(backbone: Backbone, after: Sequence[int], keep: float) -> Iterator[dict[int, Tensor]]:
    """While inside, redundant patches leave behind the blocks `after`; fills block -> places (B, n) that live behind it.

    Places count in the whole grid. Prefix tokens stay.
    """
    prefix, live = backbone.root.num_prefix_tokens, dict[int, Tensor]()

    def drop(block: int) -> Any:
        def hook(module: nn.Module, args: tuple, out: Tensor) -> Tensor:
            places = least_redundant(out[:, prefix:], keep)
            live[block] = live[max(live)].gather(1, places) if live else places
            return kept(out, places, prefix)

        return hook

    handles = [backbone.root.blocks[block].register_forward_hook(drop(block)) for block in after]
    try:
        yield live
    finally:
        for handle in handles:
            handle.remove()
