"""Which sub-nets of a ViT-Res there are: the search space of ViT-ResNAS (sec. 3.2), and what each sub-net costs."""

from __future__ import annotations

import dataclasses
import random
from functools import cached_property
from typing import Callable, Iterator, NamedTuple, Sequence

from ..core.errors import MarrowError
from .vit_res_blocks import STEM
from .vit_resnas import VitRes

Genes = tuple[int, ...]
DRAWS = 1000  # random sub-nets that are tried for one within the budget
FIRST_CUTS = 100  # heads and hidden units go first, channels and blocks only after so many cuts


class Architecture(NamedTuple):
    """A sub-net: the channels of each stage, and (index, heads, hidden units) of each block that stays.

    The channels, heads and hidden units are the first ones.
    """

    dims: tuple[int, ...]
    blocks: tuple[tuple[tuple[int, int, int], ...], ...]


class Piece(NamedTuple):
    """A part of a net whose cost depends on nothing else: "stem", "attention", "mlp" or "reduction" of a stage.

    width: tokens' channels as they come in; inner: heads, hidden units, or the channels that come out.
    """

    kind: str
    stage: int
    width: int
    inner: int


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The widths that the stages of a net may have, largest first, and the blocks that it may lack."""

    dims: tuple[tuple[int, ...], ...]
    heads: tuple[tuple[int, ...], ...]
    hidden: tuple[tuple[int, ...], ...]
    removable: tuple[frozenset[int], ...]
    depths: tuple[int, ...]

    @classmethod
    def of(
        cls,
        net: VitRes,
        dims: Sequence[float],
        heads: Sequence[float],
        hidden: Sequence[float],
        removable: Sequence[int] | None,
    ) -> "SearchSpace":
        """dims, heads, hidden: shares of what the supernet has. removable: blocks that may go, in every
        stage that has them; None is every second.
        """
        depths = tuple(len(stage.blocks) for stage in net.stages)
        most_heads, most_hidden = (), ()
        for i, stage in enumerate(net.stages):
            sizes = {(block.attn.heads, block.mlp.fc1.out_features) for block in stage.blocks}
            if len(sizes) != 1:
                raise MarrowError(f"the blocks of stage {i} of a supernet are all of one size", where="task.backbone")
            [(h, m)] = sizes
            most_heads, most_hidden = (*most_heads, h), (*most_hidden, m)
        indices = sorted(removable) if removable is not None else range(1, max(depths), 2)
        if adjacent := [i for i, j in zip(indices, indices[1:]) if j - i < 2]:
            raise MarrowError(f"blocks {adjacent[0]} and {adjacent[0] + 1} cannot both be removable: no two neighbours are",
                              where="removable")  # fmt: skip
        if outside := [i for i in indices if not 0 <= i < max(depths)]:
            raise MarrowError(f"there is no block {outside[0]}; blocks are 0 to {max(depths) - 1}", where="removable")
        space = cls(
            dims=tuple(_widths(dims, d, "dims") for d in net.dims),
            heads=tuple(_widths(heads, h, "heads") for h in most_heads),
            hidden=tuple(_widths(hidden, m, "hidden") for m in most_hidden),
            # One block stays, also of a stage that is only one block deep.
            removable=tuple(frozenset(i for i in indices if i < depth and depth > 1) for depth in depths),
            depths=depths,
        )
        for i, (narrow, wide) in enumerate(zip(space.dims, space.dims[1:])):
            if wide[-1] < narrow[0]:
                raise MarrowError(f"stage {i + 1} could have {wide[-1]} channels after {narrow[0]}; a later stage is as wide "
                                  "as an earlier one, or wider", where="dims")  # fmt: skip
        return space

    @cached_property
    def choices(self) -> list[tuple[int, ...]]:
        """The values of each gene, largest first: channels of the stages, then (heads, hidden, kept) of every block."""
        found = list(self.dims)
        for stage, depth in enumerate(self.depths):
            for block in range(depth):
                found += [self.heads[stage], self.hidden[stage], (1, 0) if block in self.removable[stage] else (1,)]
        return found

    def tidy(self, genes: Sequence[int]) -> Genes:
        """The one form of all genes that mean the same sub-net: a block that is gone has the largest widths."""
        genes = list(genes)
        for place in range(3, len(genes), 3):
            if not genes[place + 2]:
                genes[place : place + 2] = [choices[0] for choices in self.choices[place : place + 2]]
        return tuple(genes)

    def architecture(self, genes: Sequence[int]) -> Architecture:
        places, blocks = iter(range(3, len(genes), 3)), []
        for depth in self.depths:
            stage = [(i, genes[p], genes[p + 1], genes[p + 2]) for i, p in zip(range(depth), places)]
            blocks.append(tuple((i, heads, hidden) for i, heads, hidden, kept in stage if kept))
        return Architecture(tuple(genes[:3]), tuple(blocks))

    def ends(self) -> tuple[Genes, Genes]:
        """The smallest and the largest sub-net."""
        return self.tidy([c[-1] for c in self.choices]), tuple(c[0] for c in self.choices)

    def drawn(self, rng: random.Random, cost: Callable[[Genes], float], low: float, high: float) -> Genes:
        """A random sub-net that costs between low and high.

        Channels and blocks are drawn, then heads and hidden units taken away at random until it is cheap enough.
        """
        choices = self.choices
        widths = [p for p in range(3, len(choices)) if (p - 3) % 3 < 2]
        for _ in range(DRAWS):
            genes = [c[0] if p in widths else rng.choice(c) for p, c in enumerate(choices)]
            for cut in range(FIRST_CUTS + sum(map(len, choices))):
                if cost(self.tidy(genes)) <= high:
                    break
                places = widths if cut < FIRST_CUTS else range(len(choices))
                if larger := [p for p in places if genes[p] != choices[p][-1]]:
                    place = rng.choice(larger)
                    genes[place] = choices[place][choices[place].index(genes[place]) + 1]
            if low <= cost(found := self.tidy(genes)) <= high:
                return found
        raise MarrowError(f"none of {DRAWS} random sub-nets costs between {low:,.6g} and {high:,.6g}", where="budget")


def _widths(shares: Sequence[float], most: int, where: str) -> tuple[int, ...]:
    if not shares or not all(0 < share <= 1 for share in shares):
        raise MarrowError(
            f"shares of the supernet's width above 0 and up to 1 are needed, got {tuple(shares)}", where=where
        )
    return tuple(sorted({max(1, round(share * most)) for share in shares}, reverse=True))


def pieces(architecture: Architecture) -> Iterator[Piece]:
    """What the backbone of an architecture is made of, as far as its cost goes."""
    yield Piece("stem", 0, 0, architecture.dims[0])
    for stage, (dim, blocks) in enumerate(zip(architecture.dims, architecture.blocks)):
        if stage:
            yield Piece("reduction", stage, architecture.dims[stage - 1], dim)
        for _, heads, hidden in blocks:
            yield Piece("attention", stage, dim, heads)
            yield Piece("mlp", stage, dim, hidden)


def tokens(net: VitRes, stage: int) -> int:
    """Of a stage at the net's own input size, the class token among them."""
    height, width = (side // (net.patch_size * 2**stage) for side in net.size)
    return 1 + height * width


def macs(net: VitRes, piece: Piece) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image; sizes are those of `net`."""
    count, width, inner = tokens(net, piece.stage), piece.width, piece.inner
    if piece.kind == "stem":
        pixels = net.size[0] // 2 * (net.size[1] // 2)
        return pixels * 9 * STEM * (net.in_chans + 2 * STEM) + (count - 1) * STEM * (net.patch_size // 2) ** 2 * inner
    if piece.kind == "reduction":
        return ((count - 1) * 9 + 1) * width * inner
    if piece.kind == "mlp":
        return 2 * count * width * inner
    attended = inner * net.head_dims[piece.stage]
    return count * 4 * width * attended + 2 * count * count * attended
