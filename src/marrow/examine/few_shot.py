"""How well does a backbone tell classes apart of which it is shown one or five images?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Probe, Report, seed_from
from ..core.errors import MarrowError
from ..nn.embeddings import embeddings


class FewShot(Probe):
    """The accuracy in many small tasks: `ways` classes, `shots` labelled images of each, `queries` to be told apart.

    A query goes to the class whose mean embedding points its way: features at length one, the mean of the shown ones, the
    largest cosine (Wang et al., "SimpleShot", 2019, L2N). Nothing is trained, so classes that the backbone has never seen
    are asked for as they are. The stream is labelled; classes with too few images take no part.

    Row: few_shot_top1, the mean over the episodes; ci95 is half of its interval, 1.96 standard errors. n counts queries.
    Tensors: the top1 of each episode.
    """

    needs = {"model": set()}
    streams = ("test",)
    tiny = {"ways": 2, "queries": 2, "episodes": 4}

    def __init__(self, *, ways: int = 5, shots: int = 1, queries: int = 15, episodes: int = 600):
        if ways < 2:
            raise MarrowError(f"{ways} classes cannot be told apart; 2 or more are needed", where="few_shot.ways")
        for name, value in {"shots": shots, "queries": queries, "episodes": episodes}.items():
            if value < 1:
                raise MarrowError(f"{value} is not above 0", where=f"few_shot.{name}")
        self.ways, self.shots, self.queries, self.episodes = ways, shots, queries, episodes

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        found, label = embeddings(models["model"], data.streams["test"], engine, "few_shot.model")
        if label is None:
            raise MarrowError(
                "the stream 'test' has images without labels, and the probe is about labels", where="few_shot"
            )
        of_kind = [
            rows for kind in label.unique() if len(rows := (label == kind).nonzero()[:, 0]) >= self.shots + self.queries
        ]
        if len(of_kind) < self.ways:
            raise MarrowError(f"{len(of_kind)} classes have {self.shots} + {self.queries} images or more; {self.ways} are needed",
                              where="few_shot")  # fmt: skip
        top1 = torch.cat([self._right(F.normalize(found, dim=1), rows) for rows in self._episodes(of_kind)]).cpu()
        half = 1.96 * float(top1.std()) / math.sqrt(len(top1)) if len(top1) > 1 else None
        facts = {"n": self.episodes * self.ways * self.queries, "ways": self.ways, "shots": self.shots, "ci95": half}
        return Report([{"metric": "few_shot_top1", "value": float(top1.mean()), **facts}], {"top1": top1})

    def _episodes(self, of_kind: list[Tensor]) -> Any:
        """Images (ways, shots + queries) by their place in the stream, episode by episode, alike in every run."""
        rng = torch.Generator().manual_seed(seed_from("few_shot"))
        for _ in range(self.episodes):
            kinds = torch.randperm(len(of_kind), generator=rng)[: self.ways].tolist()
            drawn = (torch.randperm(len(of_kind[k]), generator=rng)[: self.shots + self.queries] for k in kinds)
            yield torch.stack([of_kind[k][d.to(of_kind[k].device)] for k, d in zip(kinds, drawn)])

    def _right(self, embedding: Tensor, rows: Tensor) -> Tensor:
        """The share (1,) of an episode's queries that go to their class."""
        known, asked = embedding[rows].split([self.shots, self.queries], dim=1)
        said = (asked @ F.normalize(known.mean(1), dim=1).T).argmax(-1)
        return (said == torch.arange(self.ways, device=said.device)[:, None]).double().mean()[None]
