"""The most confident examples of every class, found in one pass and O(k C) memory."""

from __future__ import annotations

import heapq

import torch
from torch import Tensor


class TopKPerClass:
    """Assigns each example to its most probable class and keeps the k most confident of each class.

    Of equally confident examples the one with the lower index is kept.
    """

    def __init__(self, k: int):
        self.k = k
        self._heaps: dict[int, list[tuple[float, int]]] = {}

    def update(self, probs: Tensor, index: Tensor) -> None:
        """probs (B, C); index (B,): what the examples are called."""
        confidence, label = probs.max(-1)
        for p, i, c in zip(confidence.tolist(), index.tolist(), label.tolist()):
            heap = self._heaps.setdefault(c, [])
            if len(heap) < self.k:
                heapq.heappush(heap, (p, -i))
            else:
                heapq.heappushpop(heap, (p, -i))

    def result(self) -> tuple[Tensor, Tensor, Tensor]:
        """(index, label, confidence) of what was kept, by ascending index."""
        kept = sorted((-i, c, p) for c, heap in self._heaps.items() for p, i in heap)
        index, label, confidence = zip(*kept) if kept else ((), (), ())
        return (torch.tensor(index, dtype=torch.long), torch.tensor(label, dtype=torch.long),
                torch.tensor(confidence, dtype=torch.float32))  # fmt: skip


def select_topk_per_class(probs: Tensor, k: int) -> Tensor:
    """Ascending row numbers of probs (N, C) that `TopKPerClass` keeps."""
    top = TopKPerClass(k)
    top.update(probs, torch.arange(len(probs)))
    return top.result()[0]
