"""How well do a backbone's features tell the classes apart, without training anything on them?"""

from __future__ import annotations

from typing import Any

from torch import nn

from ..core.contracts import Probe, Report
from ..core.errors import MarrowError
from ..nn.embeddings import embeddings
from ..nn.neighbours import nearest, vote


class KNN(Probe):
    """The accuracy of a vote among the `k` most similar training images, by the cosine of pooled features.

    The protocol of Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", 2018 (sec. 3.4),
    with the k = 20 of Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021: a neighbour counts
    exp(cosine / temperature). Both streams are labelled; `train` is what is remembered, `test` what is asked.

    Rows: knn_top1 and knn_balanced_top1, the mean recall over the classes present. Tensors: the confusion matrix (C, C).
    """

    needs = {"model": set()}
    streams = ("train", "test")

    def __init__(self, *, k: int = 20, temperature: float = 0.07):
        if temperature <= 0:
            raise MarrowError(f"{temperature} is not a positive number", where="knn.temperature")
        self.k, self.temperature = k, temperature

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        keys, known = embeddings(models["model"], data.streams["train"], engine, "knn.model")
        queries, wanted = embeddings(models["model"], data.streams["test"], engine, "knn.model")
        if known is None or wanted is None:
            raise MarrowError(f"the stream '{'train' if known is None else 'test'}' has images without labels, and the vote "
                              "is about labels", where="knn")  # fmt: skip
        cosine, index = nearest(queries, keys, self.k)
        classes = int(max(known.max(), wanted.max())) + 1
        said = vote(cosine, known[index], classes, self.temperature).argmax(-1)
        confusion = (wanted * classes + said).bincount(minlength=classes**2).view(classes, classes)
        right, total = confusion.diag(), confusion.sum(1)
        recall = right[total > 0].double() / total[total > 0]
        facts = {"n": len(wanted), "k": self.k, "train": len(known)}
        return Report(
            [{"metric": "knn_top1", "value": int(right.sum()) / len(wanted), **facts},
             {"metric": "knn_balanced_top1", "value": float(recall.mean()), **facts}],
            {"confusion": confusion},
        )  # fmt: skip
