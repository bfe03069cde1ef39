"""Pictures of the same thing are found by their embeddings."""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError
from ..nn.nested import check_sizes
from ..nn.ranking import average_precision, average_precision_at, leave_one_out, recall_at
from .embed import ImageToEmbedding, Labelled

PLACES = (1, 5, 10)


class Retrieve(Task):
    """The pooled features of a backbone at length one, trained so that a class lies around its own direction.

    The loss is cross-entropy on the cosines with one learned direction a class, over `temperature`: the normalised softmax
    of Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019. It needs no pairs, and a search
    needs no directions, so what is searched may be of classes that training has not seen. sizes: the first so many
    numbers are embeddings themselves, and the largest is all that there is; the losses of all add up. `matryoshka` sets
    them.
    """

    fields = {"image": "(B, 3, H, W) uint8, or float in [0, 1]", "label": "(B,) int64"}
    open_classes = True

    def __init__(self, backbone: Backbone, *, classes: int, temperature: float = 0.05, sizes: tuple[int, ...] = ()):
        super().__init__()
        if classes < 2:
            raise MarrowError(f"{classes} classes cannot be told apart; 2 or more are needed", where="retrieve.classes")
        if temperature <= 0:
            raise MarrowError(f"{temperature} is not a positive number", where="retrieve.temperature")
        if sizes:
            check_sizes(sizes, backbone.dim, "retrieve.sizes")
        self.backbone, self.classes, self.temperature, self.sizes = backbone, classes, temperature, tuple(sizes)
        self.directions = nn.Parameter(torch.randn(classes, self.sizes[-1] if sizes else backbone.dim))
        self.gives = frozenset({"embedding", *(["nested"] if sizes else [])})

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"embedding": (B, D) of the largest size, "embedding_8": (B, 8), ...}, each of length 1"""
        pooled = self.backbone(batch["image"]).pooled
        smaller = {f"embedding_{m}": F.normalize(pooled[:, :m], dim=-1) for m in self.sizes[:-1]}
        return {"embedding": F.normalize(pooled[:, : self.directions.shape[1]], dim=-1)} | smaller

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Of each size that has answered: "cross_entropy" the largest, "cross_entropy_8" size 8, ...

        An embedding (B, m) that was cut short is compared with directions cut as short.
        """
        if "label" not in batch:
            raise MarrowError("the batch has no 'label'; this source is unlabelled, and retrieve learns with labels",
                              where="retrieve")  # fmt: skip
        return {name.replace("embedding", "cross_entropy"): F.cross_entropy(self._logits(said), batch["label"])
                for name, said in out.items()}  # fmt: skip

    def _logits(self, embedding: Tensor) -> Tensor:
        directions = F.normalize(self.directions[:, : embedding.shape[-1]].float(), dim=-1)
        return F.normalize(embedding.float(), dim=-1) @ directions.T / self.temperature

    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """As the answer, so that a product of two embeddings of one size is their cosine."""
        return {name: F.normalize(said.float(), dim=-1) for name, said in out.items()}

    @staticmethod
    def metric() -> RetrieveMetric:
        return RetrieveMetric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (embedding, embedding_8, ...)"""
        return ImageToEmbedding(self)


class RetrieveMetric(Labelled):
    """Every image asks for all others: rows recall_at_1, recall_at_5, recall_at_10, map and map_at_10 of the largest size,
    and recall_at_1_8 of size 8, and so on.

    recall_at_k: how often one of the k most similar has the same label. map: the mean over the queries of their average
    precision over the whole ranking; map_at_10 sums the precision at the hits among the first ten and divides by ten. An
    image that is the only one of its label asks for nothing.
    """

    where = "retrieve"

    def __init__(self) -> None:
        super().__init__()
        self.smaller: dict[str, list[Tensor]] = {}

    def update(self, decoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        super().update(decoded, batch)
        for name, said in decoded.items():
            if name != "embedding":
                self.smaller.setdefault(name, []).append(said)

    def compute(self) -> list[dict]:
        label = torch.cat(self.label) if self.label else torch.empty(0)
        if len(label) < 2 or len(label.unique()) == len(label):
            raise MarrowError(f"no two of {len(label)} labelled images have the same label, so there is nothing to find",
                              where="retrieve")  # fmt: skip
        found: dict[str, list[Tensor]] = {}
        for hits in leave_one_out(torch.cat(self.embedding), label):
            for k in PLACES:
                found.setdefault(f"recall_at_{k}", []).append(recall_at(hits, k))
            found.setdefault("map", []).append(average_precision(hits))
            found.setdefault("map_at_10", []).append(average_precision_at(hits, 10))
        for size, said in self.smaller.items():
            found[size.replace("embedding", "recall_at_1")] = [
                recall_at(hits, 1) for hits in leave_one_out(torch.cat(said), label, places=1)
            ]
        joined = {name: torch.cat(parts) for name, parts in found.items()}
        return [{"metric": name, "value": float(v.mean()), "n": len(v)} for name, v in joined.items()]
