"""Evolutionary search over lists of genes: random ones, then the best with changes, and crossed with one another.

As in ViT-ResNAS (Liao et al., arXiv 2109.00642, sec. 3.4), for any searcher: what a gene means, which lists are allowed and how
good one is are the caller's.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Callable, NamedTuple, Sequence

Genes = tuple[int, ...]
MUTATION = 0.3  # the chance of a gene to be drawn anew
TRIES = 1000  # to make one child that is allowed and new


class Candidate(NamedTuple):
    genes: Genes
    score: float  # higher is better
    generation: int  # 0: drawn at random


def evolve(
    choices: Sequence[Sequence[int]],
    draw: Callable[[random.Random], Genes],
    tidy: Callable[[Sequence[int]], Genes],
    fits: Callable[[Genes], bool],
    score: Callable[[list[Genes]], list[float]],
    *,
    initial: int,
    population: int,
    generations: int,
    seed: int,
) -> list[Candidate]:
    """All candidates ever scored, the best first; of equals the earlier one.

    choices: the values of each gene. draw: random genes that fit. tidy: the one form of genes that mean the same. A generation
    takes the best `population` of all so far and makes as many mutants and as many crossings that fit and are new, or fewer
    where none is found. Equal arguments give equal candidates, so with a `score` that remembers, an interrupted search is
    repeated rather than resumed.
    """
    rng = random.Random(seed)
    found: list[Candidate] = []
    seen: set[Genes] = set()

    def collect(make: Callable[[], Genes], count: int) -> list[Genes]:
        made: list[Genes] = []
        for _ in range(count):
            for _ in range(TRIES):
                if fits(child := tidy(make())) and child not in seen:
                    seen.add(child)
                    made.append(child)
                    break
        return made

    def judge(genes: list[Genes], generation: int) -> None:
        found.extend(Candidate(g, s, generation) for g, s in zip(genes, score(genes), strict=True))
        found.sort(key=lambda candidate: -candidate.score)

    judge(collect(partial(draw, rng), initial), 0)
    for generation in range(1, generations + 1):
        parents = [candidate.genes for candidate in found[:population]]
        mutants = collect(partial(_mutant, parents, choices, rng), population)
        judge(mutants + collect(partial(_crossing, parents, rng), population), generation)
    return found


def mutated(genes: Genes, choices: Sequence[Sequence[int]], rng: random.Random) -> Genes:
    """Each gene drawn anew with a chance of 0.3; one with two values takes the other."""
    return tuple(_changed(g, values, rng) if rng.random() < MUTATION else g for g, values in zip(genes, choices))


def crossed(one: Genes, other: Genes, rng: random.Random) -> Genes:
    """Each gene from either with equal chance."""
    return tuple(rng.choice(pair) for pair in zip(one, other))


def _mutant(parents: Sequence[Genes], choices: Sequence[Sequence[int]], rng: random.Random) -> Genes:
    return mutated(rng.choice(parents), choices, rng)


def _crossing(parents: Sequence[Genes], rng: random.Random) -> Genes:
    return crossed(rng.choice(parents), rng.choice(parents), rng)


def _changed(gene: int, values: Sequence[int], rng: random.Random) -> int:
    return rng.choice([v for v in values if v != gene] if len(values) == 2 else list(values))
