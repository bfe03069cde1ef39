"""The best sub-net of a trained ViT-Res supernet under a budget, found by evolution."""

from __future__ import annotations

import dataclasses
import tempfile
from functools import lru_cache, partial
from typing import Any, Literal, Mapping, Sequence

from torch import nn

from ..backbones.vit_resnas import VitRes
from ..backbones.vit_resnas_space import Architecture, Genes, Piece, SearchSpace, macs, pieces
from ..backbones.vit_resnas_subnet import extracted, supernet
from ..core import exact
from ..core.contracts import Cut, Edit, Shrinker, seed_from
from ..core.errors import MarrowError
from .evolution import Candidate, evolve
from .sub_net_latency import every_piece, milliseconds
from .sub_net_score import Judge, Remembered

LEAST_SHARE = 0.975  # of the budget


@dataclasses.dataclass(frozen=True)
class SubNet(Edit):
    """The first channels of each stage, and of the blocks that stay [index, heads, hidden units]; the first ones of each."""

    dims: Sequence[int]
    blocks: Sequence[Sequence[Sequence[int]]]

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        (task,) = models
        net = supernet(task)
        architecture = Architecture(tuple(self.dims), tuple(tuple((i, h, m) for i, h, m in s) for s in self.blocks))
        self._check(net, architecture)
        return extracted(task, architecture)

    @staticmethod
    def _check(net: VitRes, architecture: Architecture) -> None:
        if [len(architecture.dims), len(architecture.blocks)] != [len(net.dims)] * 2:
            raise MarrowError(f"a sub-net has {len(net.dims)} stages", where="vit_resnas_search")
        for dim, most in zip(architecture.dims, net.dims):
            _within(dim, most, "channels")
        for stage, blocks in zip(net.stages, architecture.blocks):
            if list(blocks) != sorted(set(blocks)) or not blocks:
                raise MarrowError(
                    "the blocks of a sub-net are named once each, in order, one at least", where="vit_resnas_search"
                )
            for index, heads, hidden in blocks:
                _within(index + 1, len(stage.blocks), "blocks")
                _within(heads, stage.blocks[index].attn.heads, "heads")
                _within(hidden, stage.blocks[index].mlp.fc1.out_features, "hidden units")


class VitResNASSearch(Shrinker):
    """Evolutionary search of ViT-ResNAS (Liao et al., arXiv 2109.00642, sec. 3.4) in what `multi_architectural` has trained.

    budget: the most that the backbone may cost for one image, in MACs or in milliseconds; what is found costs at least 97.5 %
    of it. Milliseconds are those of the pieces that sub-nets are made of, each measured once on the device of the search,
    and added up. A sub-net's score is the first row of the task's metric on the stream `holdout`, which no training should have
    seen, with the supernet's weights. dims, heads, hidden, removable: as in `multi_architectural`.

    initial, population, generations: of the search, 500, 75 and 19 in the paper; a generation adds 2 * population. With one
    and no generation it is a random sub-net. fresh: what is found starts from new weights, as in the paper, and not from
    those of the supernet. Candidates are spread over processes; rows.json beside the weights names all, the best first.
    """

    needs = {"task": {"slimmable"}}
    streams = ("holdout",)
    tiny = {"budget": 3.05e6, "initial": 4, "population": 2, "generations": 1}

    def __init__(
        self,
        *,
        budget: float,
        initial: int,
        population: int,
        generations: int,
        unit: Literal["macs", "milliseconds"] = "macs",
        dims: tuple[float, ...] = (1.0, 0.875, 0.75, 0.6875, 0.625),
        heads: tuple[float, ...] = (1.0, 0.8333, 0.6667, 0.5),
        hidden: tuple[float, ...] = (1.0, 0.9167, 0.8333, 0.75, 0.6667, 0.5833, 0.5),
        removable: tuple[int, ...] | None = None,
        fresh: bool = False,
    ):
        if initial < 1 or population < 1 or generations < 0:
            raise MarrowError(f"{initial} random sub-nets and {generations} generations of {population} make no search",
                              where="vit_resnas_search.initial")  # fmt: skip
        self.initial, self.population, self.generations = initial, population, generations
        self.budget, self.unit, self.fresh = budget, unit, fresh
        self.widths = (dims, heads, hidden, removable)

    def plan(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Cut:
        task = models["task"]
        net = supernet(task, "vit_resnas_search.task")
        space = SearchSpace.of(net, *self.widths)
        prices = self._prices(net, space, engine)

        @lru_cache(maxsize=2**16)
        def cost(genes: Genes) -> float:
            return sum(prices[piece] for piece in pieces(space.architecture(genes)))

        least, most = map(cost, space.ends())
        if not least <= self.budget <= most:
            raise MarrowError(f"the sub-nets cost from {least:,.6g} to {most:,.6g} {self.unit}, none of them {self.budget:,.6g}; "
                              f"the nearest budget is {least if self.budget < least else most:,.6g}",
                              where="vit_resnas_search.budget")  # fmt: skip
        low = LEAST_SHARE * self.budget
        with tempfile.TemporaryDirectory() as folder:
            scores = Remembered(Judge.of(task, data.streams["holdout"], engine, folder), engine)
            found = evolve(
                space.choices,
                draw=lambda rng: space.drawn(rng, cost, low, self.budget),
                tidy=space.tidy,
                fits=lambda genes: low <= cost(genes) <= self.budget,
                score=lambda many: scores([space.architecture(genes) for genes in many]),
                initial=self.initial,
                population=self.population,
                generations=self.generations,
                seed=engine.settings.seed,
            )
        rows = [_row(c, space.architecture(c.genes)) | {self.unit: cost(c.genes)} for c in found]
        best = space.architecture(found[0].genes)
        weights = None
        if self.fresh:
            with exact.preserved():  # seeded anew: how many candidates this process judged must not matter
                exact.seed_all(seed_from(engine.settings.seed, "sub-net"))
                weights = extracted(task, best, fresh=True).state_dict()
        return Cut(SubNet(best.dims, best.blocks), weights, rows)

    def _prices(self, net: VitRes, space: SearchSpace, engine: Any) -> Mapping[Piece, float]:
        """What each piece costs, the same in every process."""
        every = every_piece(space)
        if self.unit == "macs":
            return {piece: macs(net, piece) for piece in every}
        [times] = engine.map(partial(milliseconds, net, device=str(engine.device)), [every])
        return dict(zip(every, times))


def _row(candidate: Candidate, architecture: Architecture) -> dict[str, Any]:
    """blocks: for each stage the blocks that stay, as index:heads/hidden units."""
    return {
        "score": candidate.score,
        "generation": candidate.generation,
        "dims": " ".join(map(str, architecture.dims)),
        "blocks": " | ".join(" ".join(f"{i}:{h}/{m}" for i, h, m in stage) for stage in architecture.blocks),
    }


def _within(number: int, most: int, what: str) -> None:
    if not 1 <= number <= most:
        raise MarrowError(f"{number} is outside of the supernet's {most} {what}", where="vit_resnas_search")
