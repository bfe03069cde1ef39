"""Nearest neighbours by cosine: exact, in memory that does not grow with the product of the two sets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import MarrowError


def nearest(queries: Tensor, keys: Tensor, k: int, chunk: int = 4096) -> tuple[Tensor, Tensor]:
    """For each of queries (N, D) the k most similar of keys (M, D): cosines (N, k), best first, and rows of keys (N, k).

    `chunk` queries are compared with `chunk` keys at a time. Equally similar keys come in any order.
    """
    if not 1 <= k <= len(keys):
        raise MarrowError(f"{k} neighbours cannot be found among {len(keys)} examples", where="k")
    parts = [_nearest(F.normalize(q.float(), dim=-1), keys, k, chunk) for q in queries.split(chunk)]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _nearest(queries: Tensor, keys: Tensor, k: int, chunk: int) -> tuple[Tensor, Tensor]:
    best = queries.new_empty(len(queries), 0)
    index = torch.empty(len(queries), 0, dtype=torch.long, device=queries.device)
    for start in range(0, len(keys), chunk):
        cosine = queries @ F.normalize(keys[start : start + chunk].float(), dim=-1).T  # (N, chunk)
        rows = torch.arange(start, start + cosine.shape[1], device=queries.device).expand_as(cosine)
        best, index = torch.cat([best, cosine], 1), torch.cat([index, rows], 1)
        best, kept = best.topk(min(k, best.shape[1]))
        index = index.gather(1, kept)
    return best, index


def vote(cosine: Tensor, label: Tensor, classes: int, temperature: float) -> Tensor:
    """Scores (N, classes): each of k neighbours adds exp(cosine / temperature) to its label's; both are (N, k)."""
    # Relative to the best neighbour, or a low temperature would overflow; the order of the classes is the same.
    weight = ((cosine - cosine.amax(1, keepdim=True)) / temperature).exp()
    return cosine.new_zeros(len(cosine), classes).scatter_add(1, label, weight)


def shared(a: Tensor, b: Tensor) -> Tensor:
    """The share (N,) of the neighbours a (N, k) that are also among b (N, k), in any order."""
    found = torch.zeros_like(a, dtype=torch.bool)
    for column in b.T:
        found |= a == column[:, None]
    return found.float().mean(1)
