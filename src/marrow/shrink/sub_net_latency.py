"""What the pieces of sub-nets take in time, measured once each on the device that the search runs on."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any, Iterable

import torch
from timm.layers import Mlp
from torch import Tensor, nn

from ..backbones.vit_res_blocks import EPS, ResidualSpatialReduction, SelfAttention, Stem
from ..backbones.vit_resnas import VitRes
from ..backbones.vit_resnas_space import Piece, SearchSpace, tokens

REPEATS, WARM = 15, 3


def every_piece(space: SearchSpace) -> list[Piece]:
    """All pieces that the sub-nets of a space are made of."""
    found = [Piece("stem", 0, 0, dim) for dim in space.dims[0]]
    for stage, dims in enumerate(space.dims):
        for dim in dims:
            found += [Piece("attention", stage, dim, heads) for heads in space.heads[stage]]
            found += [Piece("mlp", stage, dim, hidden) for hidden in space.hidden[stage]]
            found += [Piece("reduction", stage, before, dim) for before in (space.dims[stage - 1] if stage else ())]
    return found


@torch.inference_mode()
def milliseconds(net: VitRes, pieces: Iterable[Piece], device: str) -> list[float]:
    """The median time of each piece for one image, its normalisation and shortcut included."""
    found = []
    for piece in pieces:
        module, inputs = _built(net, piece)
        module = module.to(device).eval()
        inputs = [x.to(device) if isinstance(x, Tensor) else x for x in inputs]
        times = [_once(module, inputs, device) for _ in range(WARM + REPEATS)]
        found.append(1000 * median(times[WARM:]))
    return found


def _once(module: nn.Module, inputs: list[Any], device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    start = perf_counter()
    module(*inputs)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return perf_counter() - start


class _Residual(nn.Module):
    def __init__(self, dim: int, inner: nn.Module):
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(dim, eps=EPS), inner

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(self.norm(x))


def _built(net: VitRes, piece: Piece) -> tuple[nn.Module, list[Any]]:
    """A piece with random weights, and what it takes."""
    grid = tuple(side // (net.patch_size * 2**piece.stage) for side in net.size)
    if piece.kind == "stem":
        return Stem(net.in_chans, piece.inner, net.patch_size, grid), [torch.rand(1, net.in_chans, *net.size)]
    if piece.kind == "reduction":
        before = (2 * grid[0], 2 * grid[1])
        x = torch.rand(1, tokens(net, piece.stage - 1), piece.width)
        return ResidualSpatialReduction(piece.width, piece.inner, grid), [x, before]
    x = torch.rand(1, tokens(net, piece.stage), piece.width)
    if piece.kind == "mlp":
        return _Residual(piece.width, Mlp(piece.width, piece.inner)), [x]
    return _Residual(piece.width, SelfAttention(piece.width, piece.inner, net.head_dims[piece.stage])), [x]
