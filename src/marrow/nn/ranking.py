"""How good a ranking is, from which of its places are hits."""

from __future__ import annotations

from typing import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F


def recall_at(hits: Tensor, k: int) -> Tensor:
    """(Q,) 1 where one of the first k places of hits (Q, K), best first, is a hit, else 0."""
    return hits[:, :k].any(1).double()


def precision_at(hits: Tensor, k: int) -> Tensor:
    """(Q,) the share of hits among the first k places of hits (Q, K), best first."""
    return hits[:, :k].sum(1).double() / k


def share_found_at(hits: Tensor, k: int, there: Tensor) -> Tensor:
    """(Q,) the share of all the hits that there are, `there` (Q,), among the first k places; 0 where there are none."""
    return hits[:, :k].sum(1).double() / there.clamp(min=1)


def precision_at_hits(hits: Tensor) -> Tensor:
    """(Q, K): at a hit the share of hits up to there, elsewhere 0."""
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    return hits.double().cumsum(1) / places * hits


def average_precision_at(hits: Tensor, k: int) -> Tensor:
    """(Q,) the sum of the precision at the hits among the first k, divided by k, however many hits there could be."""
    return precision_at_hits(hits[:, :k]).sum(1) / k


def average_precision(hits: Tensor) -> Tensor:
    """(Q,) the mean of the precision over all hits of the whole ranking; each query has one at least."""
    return precision_at_hits(hits).sum(1) / hits.sum(1)


def leave_one_out(embedding: Tensor, label: Tensor, chunk: int = 256, places: int | None = None) -> Iterator[Tensor]:
    """Each of embedding (N, D) asks for all others by cosine: hits (n, N - 1) of `chunk` queries at a time, best first.

    A hit has the same label (N,). Whoever is the only one of its label has nothing to find and does not ask. places: only
    the first so many, which is faster.
    """
    unit = F.normalize(embedding.float(), dim=-1)
    _, kind, count = label.unique(return_inverse=True, return_counts=True)
    rows = (count[kind] > 1).nonzero()[:, 0].to(unit.device)
    for some in rows.split(chunk):
        cosine = unit[some] @ unit.T
        cosine[torch.arange(len(some)), some] = -torch.inf  # so that itself comes last
        order = cosine.topk(places).indices if places else cosine.argsort(1, descending=True)[:, :-1]
        yield label[order] == label[some, None]
