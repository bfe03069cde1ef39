"""How well a model does on a source: by labels, by the teacher's answers, or by the teacher's neighbours."""

from __future__ import annotations

import dataclasses
from typing import Any, Sequence

import torch
from torch import Tensor, nn

from ..core.contracts import Input
from ..core.engine import Engine
from ..core.source import Source
from ..core.training import evaluating
from ..nn.class_map import map_logits
from ..nn.embeddings import embeddings
from ..nn.neighbours import nearest, shared
from ..ship.interval import balanced, wilson

NEIGHBOURS = 10
REFERENCE = 5000  # images among which neighbours are looked for


@dataclasses.dataclass(frozen=True)
class Score:
    """One model on one source. answers, wanted (N,) and confusion (C, C), counts of (wanted, answer), are of classes;
    None where there are none. more: further metrics.
    """

    metric: str
    value: float
    n: int
    ci95: tuple[float, float]
    more: dict[str, float]
    answers: Tensor | None = None
    wanted: Tensor | None = None
    confusion: Tensor | None = None


class Mapped(nn.Module):
    """A classifier of other classes, answering in the data's (`make/class_map.py`)."""

    def __init__(self, task: Any, class_map: Sequence[int], classes: int):
        super().__init__()
        self.task, self.classes, self.input = task, classes, task.input
        self.register_buffer("class_map", torch.tensor(class_map))

    input: Input

    def forward(self, batch: Any) -> dict[str, Tensor]:
        return {"logits": map_logits(self.task(batch)["logits"], self.class_map, self.classes)}


def answers(thing: Any, source: Source, engine: Engine) -> tuple[Tensor, Tensor | None]:
    """What a classifier says (N,), and the labels (N,) if there are any."""
    said, labels = [], []
    with evaluating(thing, engine.device), torch.inference_mode():
        for batch in engine.batches(source, thing.input):
            said.append(thing(batch)["logits"].argmax(-1).cpu())
            labels += [batch["label"].cpu()] if "label" in batch else []
    return torch.cat(said), torch.cat(labels) if labels else None


def by_answers(metric: str, said: Tensor, wanted: Tensor, classes: int) -> Score:
    """metric: "top1" and "agreement" are the share of equal answers, "balanced_top1" the mean of the classes' shares."""
    confusion = torch.bincount(wanted * classes + said, minlength=classes**2).view(classes, classes)
    right, total, n = confusion.diag(), confusion.sum(1), len(wanted)
    share = int(right.sum()) / n
    recall = float((right[total > 0].double() / total[total > 0]).mean())
    first = "agreement" if metric == "agreement" else "top1"
    found = {first: (share, wilson(int(right.sum()), n))}
    if metric != "agreement":
        found["balanced_top1"] = (recall, balanced(confusion))
    value, interval = found.pop(metric)
    more = {name: v for name, (v, _) in found.items()}
    return Score(metric, value, n, interval, more, said, wanted, confusion)


class Neighbours:
    """The k-NN agreement with a teacher (`examine/knn_agreement.py`), whose neighbours are looked up once."""

    def __init__(self, teacher: Any, reference: Source, source: Source, engine: Engine):
        self._reference, self._source, self._engine = reference, source, engine
        self.k = min(NEIGHBOURS, len(reference))
        self._teachers = self._of(teacher)

    def _of(self, model: Any) -> Tensor:
        keys, _ = embeddings(model, self._reference, self._engine, "teacher")
        queries, _ = embeddings(model, self._source, self._engine, "teacher")
        return nearest(queries, keys, self.k)[1]

    def score(self, model: Any) -> Score:
        share = shared(self._of(model), self._teachers).double()
        mean, n = float(share.mean()), len(share)
        half = 1.96 * float(share.std()) / n**0.5 if n > 1 else 1.0
        interval = max(0.0, mean - half), min(1.0, mean + half)
        return Score("knn_agreement", mean, n, interval, {"chance": self.k / len(self._reference)})
