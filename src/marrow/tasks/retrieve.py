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
from .embed import Embed, ImageToEmbedding, Labelled

PLACES = (1, 5, 10)


class Retrieve(Task):
    """The pooled features of a backbone at length one, trained so that a class lies around its own direction.

    The loss is cross-entropy on the cosines with one learned direction a class, over `temperature`: the normalised softmax
    of Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", BMVC 2019. It needs no pairs, and a search
    needs no directions, so what is searched may be of classes that training has not seen. sizes: the first so many
    numbers are embeddings themselves; `matryoshka` sets them.
    """

    fields = {"image": "(B, 3, H, W) uint8, or float in [0, 1]", "label": "(B,) int64"}

    def __init__(self, backbone: Backbone, *, classes: int, temperature: float = 0.05, sizes: tuple[int, ...] = ()):
        super().__init__()
        if classes < 2:
            raise MarrowError(f"{classes} classes cannot be told apart; 2 or more are needed", where="retrieve.classes")
        if temperature <= 0:
            raise MarrowError(f"{temperature} is not a positive number", where="retrieve.temperature")
        if sizes:
            check_sizes(sizes, backbone.dim, "retrieve.sizes")
        self.backbone, self.classes, self.temperature, self.sizes = backbone, classes, temperature, tuple(sizes)
        self.directions = nn.Parameter(torch.randn(classes, backbone.dim))
        self.gives = frozenset({"embedding", *(["nested"] if sizes else [])})

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"embedding": (B, D) of length 1}"""
        return {"embedding": F.normalize(self.backbone(batch["image"]).pooled, dim=-1)}

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """An embedding (B, m) that was cut short is compared with directions cut as short."""
        if "label" not in batch:
            raise MarrowError("the batch has no 'label'; this source is unlabelled, and retrieve learns with labels",
                              where="retrieve")  # fmt: skip
        embedding = F.normalize(out["embedding"].float(), dim=-1)
        directions = F.normalize(self.directions[:, : embedding.shape[-1]].float(), dim=-1)
        return {"cross_entropy": F.cross_entropy(embedding @ directions.T / self.temperature, batch["label"])}

    decode = staticmethod(Embed.decode)

    @staticmethod
    def metric() -> RetrieveMetric:
        return RetrieveMetric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (embedding,)"""
        return ImageToEmbedding(self)


class RetrieveMetric(Labelled):
    """Every image asks for all others: rows recall_at_1, recall_at_5, recall_at_10, map and map_at_10.

    recall_at_k: how often one of the k most similar has the same label. map: the mean over the queries of their average
    precision over the whole ranking; map_at_10 sums the precision at the hits among the first ten and divides by ten. An
    image that is the only one of its label asks for nothing.
    """

    where = "retrieve"

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
        joined = {name: torch.cat(parts) for name, parts in found.items()}
        return [{"metric": name, "value": float(v.mean()), "n": len(v)} for name, v in joined.items()]
