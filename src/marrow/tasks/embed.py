"""A backbone as something to be shipped: an image in, an embedding out."""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Task
from ..core.errors import MarrowError
from ..nn.neighbours import nearest
from ..nn.nested import check_sizes


class Embed(Task):
    """The pooled features of a backbone, which are compared by their cosine. There is nothing in it to train.

    sizes: the first so many features are embeddings themselves, as those of a backbone are that `matryoshka` trained.
    """

    fields = {"image": "(B, 3, H, W) uint8, or float in [0, 1]", "label": "(B,) int64, only to measure"}
    open_classes = True
    exempt = {"losses": "it puts no layer on its backbone, which a method trains by itself"}

    def __init__(self, backbone: Backbone, *, sizes: tuple[int, ...] = ()):
        super().__init__()
        if sizes:
            check_sizes(sizes, backbone.dim, "embed.sizes")
            _check_one_net(backbone)
        self.backbone, self.sizes = backbone, tuple(sizes)
        self.gives = frozenset({"embedding", *(["nested"] if sizes else [])})

    def forward(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"embedding": (B, D)}"""
        return {"embedding": self.backbone(batch["image"]).pooled}

    def losses(self, out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        raise MarrowError("an embedding has no loss of its own", where="embed",
                          hint="Train its backbone, for example by feature_distillation.")  # fmt: skip

    @staticmethod
    def decode(out: dict[str, Tensor], batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"embedding": (B, D) of length 1}, so that a product of two is their cosine."""
        return {"embedding": F.normalize(out["embedding"].float(), dim=-1)}

    @staticmethod
    def metric() -> EmbedMetric:
        return EmbedMetric()

    def exported(self) -> nn.Module:
        """image (B, 3, H, W) -> (embedding,)"""
        return ImageToEmbedding(self)


class Labelled:
    """The embeddings and labels of all batches."""

    where: str

    def __init__(self) -> None:
        self.embedding: list[Tensor] = []
        self.label: list[Tensor] = []

    def update(self, decoded: Mapping[str, Tensor], batch: Mapping[str, Any]) -> None:
        if "label" not in batch:
            raise MarrowError("the batch has no 'label', and whether two images belong together is told by labels",
                              where=self.where, hint="knn_agreement measures without labels.")  # fmt: skip
        self.embedding.append(decoded["embedding"])
        self.label.append(batch["label"].to(decoded["embedding"].device))


class EmbedMetric(Labelled):
    """Row recall_at_1: how often the most similar other image has the same label."""

    where = "embed"

    def compute(self) -> list[dict]:
        n = sum(map(len, self.label))
        if n < 2:
            raise MarrowError(f"{n} labelled images have no neighbours; 2 or more are needed", where="embed")
        embedding, label = torch.cat(self.embedding), torch.cat(self.label)
        found = nearest(embedding, embedding, 2)[1]
        # An image is its own nearest unless a copy of it is.
        own = found[:, 0] == torch.arange(n, device=found.device)
        right = label[torch.where(own, found[:, 1], found[:, 0])] == label
        return [{"metric": "recall_at_1", "value": int(right.sum()) / n, "n": n}]


class ImageToEmbedding(nn.Module):
    def __init__(self, task: Task):
        super().__init__()
        self.task = task

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.task({"image": image}).values())


def _check_one_net(backbone: Backbone) -> None:
    if any(isinstance(m, Backbone) and m.concatenated for m in backbone.modules()):
        raise MarrowError("the first features of concatenated backbones are those of the first member alone",
                          where="embed.sizes", hint="Leave sizes out, or name them for one member.")  # fmt: skip
