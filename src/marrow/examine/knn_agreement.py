"""Does a student see the same images as alike as its teacher does? Needs no labels."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.contracts import Probe, Report
from ..nn.embeddings import embeddings
from ..nn.neighbours import nearest, shared


class KNNAgreement(Probe):
    """For each test image, how many of its `k` most similar reference images are the same for student and teacher.

    The mean share is the mutual k-NN metric of Huh et al., "The Platonic Representation Hypothesis", 2024, asked of images
    outside the set that is searched; `reference` and `test` must not share images. Unrelated features agree in k /
    (images of the reference), the row's `chance`. Tensors: the share of each test image (N,).
    """

    needs = {"student": set(), "teacher": set()}
    streams = ("reference", "test")

    def __init__(self, *, k: int = 10):
        self.k = k

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        found = []
        for role in ("student", "teacher"):
            keys, _ = embeddings(models[role], data.streams["reference"], engine, f"knn_agreement.{role}")
            queries, _ = embeddings(models[role], data.streams["test"], engine, f"knn_agreement.{role}")
            found.append(nearest(queries, keys, self.k)[1])
        share = shared(*found)
        row = {"metric": "knn_agreement", "value": float(share.mean()), "n": len(share), "k": self.k,
               "chance": self.k / len(keys)}  # fmt: skip
        return Report([row], {"shared": share})
