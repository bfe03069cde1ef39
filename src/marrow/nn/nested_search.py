"""Search that looks at few numbers of many embeddings, then at many numbers of few."""

from __future__ import annotations

from importlib.util import find_spec
from itertools import pairwise
from typing import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import MarrowError
from .neighbours import nearest
from .nested import check_sizes

INDEXES = ("exact", "flat", "hnsw")
LINKS = 32  # of each key in the graph of "hnsw", as in the paper's experiments


def search(queries: Tensor, keys: Tensor, k: int, index: str = "exact") -> Tensor:
    """Rows (Q, k) of keys (N, D) that are most similar to queries (Q, D) by cosine, best first.

    index: "exact" in torch; "flat", exact too, and "hnsw", a graph that is searched only in part, by FAISS.
    """
    check_index(index)
    if index == "exact":
        return nearest(queries, keys, k)[1]
    if not 1 <= k <= len(keys):
        raise MarrowError(f"{k} neighbours cannot be found among {len(keys)} examples", where="k")
    import faiss

    made: faiss.Index = faiss.IndexFlatIP(keys.shape[1])
    if index == "hnsw":
        made = graph = faiss.IndexHNSWFlat(keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        graph.hnsw.efSearch = max(k, 2 * LINKS)  # fewer candidates than answers would leave places empty
    made.add(_unit(keys))
    found = torch.from_numpy(made.search(_unit(queries), k)[1]).to(queries.device)
    if (found < 0).any():
        raise MarrowError(f"the graph does not reach {k} neighbours of every query", where="index",
                          hint="Ask for fewer, or take the index 'flat'.")  # fmt: skip
    return found


def funnel(
    queries: Tensor, keys: Tensor, sizes: Sequence[int], shortlists: Sequence[int], index: str = "exact"
) -> tuple[Tensor, Tensor]:
    """A shortlist (Q, K) of rows of keys by the first size, and what is left (Q, k) after sorting it by the others.

    Before the i-th sorting, by the first `sizes[i + 1]` numbers, the list is cut to `shortlists[i]`. Two sizes and one
    shortlist are adaptive retrieval, more are funnel retrieval (sec. 4.3). What is cut is normalised anew at every size.
    """
    check_sizes(sizes, keys.shape[1], "sizes")
    if len(shortlists) != len(sizes) - 1:
        raise MarrowError(f"{len(sizes)} sizes are followed by {len(sizes) - 1} sortings, each of a shortlist; "
                          f"{len(shortlists)} are given", where="shortlists")  # fmt: skip
    if any(b > a for a, b in pairwise(shortlists)):
        raise MarrowError(f"{', '.join(map(str, shortlists))} grow; a later list is part of the one before",
                          where="shortlists")  # fmt: skip
    most = shortlists[0] if shortlists else len(keys)
    first = found = search(queries[:, : sizes[0]], keys[:, : sizes[0]], most, index)
    for size, kept in zip(sizes[1:], shortlists):
        found = rerank(queries[:, :size], keys[:, :size], found[:, :kept])
    return first, found


def rerank(queries: Tensor, keys: Tensor, found: Tensor, chunk: int = 256) -> Tensor:
    """Rows of keys (N, D) in found (Q, K), sorted for each of queries (Q, D) by their cosine."""
    unit = F.normalize(keys.float(), dim=-1)
    parts = []
    for query, rows in zip(F.normalize(queries.float(), dim=-1).split(chunk), found.split(chunk)):
        cosine = torch.einsum("qd,qkd->qk", query, unit[rows])
        parts.append(rows.gather(1, cosine.argsort(1, descending=True)))
    return torch.cat(parts)


def mega_macs(keys: int, sizes: Sequence[int], shortlists: Sequence[int]) -> float:
    """Millions of multiply-accumulates of one query: every key at the first size, each shortlist at its own."""
    return (sizes[0] * keys + sum(size * kept for size, kept in zip(sizes[1:], shortlists))) / 1e6


def check_index(index: str) -> None:
    """Raise at an index that there is not, or whose library is not installed."""
    if index not in INDEXES:
        raise MarrowError(f"unknown index '{index}'; known: {', '.join(INDEXES)}", where="index")
    if index != "exact" and find_spec("faiss") is None:
        raise MarrowError(f"the index '{index}' is FAISS's, which is not installed", where="index",
                          hint="pip install 'marrow[retrieval]', or take the index 'exact'.")  # fmt: skip


def _unit(x: Tensor) -> np.ndarray:
    return F.normalize(x.float(), dim=-1).cpu().contiguous().numpy()
