"""SepCLR: what a set of pictures shares with a background set, and what only it shows, as two codes.

Louiset et al., "Separating common from salient patterns with Contrastive Representation Learning", ICLR 2024.
"""

from __future__ import annotations

from typing import Any, Literal, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..data.colours import Colours
from ..data.crop_views import CropViews
from ..nn.conditional_gaussian import ConditionalGaussian
from ..nn.gathered import gathered
from ..nn.projection import check_widths, projection
from ..nn.separation import (
    CONTINUOUS,
    DISCRETE,
    align,
    attribute_align,
    joint,
    uniform,
    without_background,
)
from ..tasks.separate import Separate

TAU = 0.5  # so that 1 / (2 tau) is 1
FEWEST = 16  # examples of a joint batch, below which a density over it means nothing
FEWEST_OF_EACH = 2
HIDDEN = 128


def terms(c1: Tensor, c2: Tensor, s1: Tensor, s2: Tensor, is_target: Tensor) -> dict[str, Tensor]:
    """The terms of sec. 3 without weights, for two views' common codes of length 1 and salient codes, (N, D).

    common_*: all examples are alike in two views and spread over the sphere. salient_*: so are targets, apart from each
    other and from the 0 that stands for backgrounds. info_less: backgrounds have a salient code of 0.
    """
    t1, t2 = without_background(s1, is_target), without_background(s2, is_target)
    targets, others = (s1[is_target], s2[is_target]), (s1[~is_target], s2[~is_target])
    return {
        "common_align": align(c1, c2, TAU),
        "common_uniform": (uniform(c1, TAU) + uniform(c2, TAU)) / 2,
        "salient_align": align(*targets, TAU),
        "salient_uniform": (uniform(t1, TAU) + uniform(t2, TAU)) / 2,
        "info_less": torch.stack([align(torch.zeros_like(o), o, TAU) for o in others]).mean(),
    }


def known_terms(s1: Tensor, s2: Tensor, is_target: Tensor, attributes: list[Tensor]) -> dict[str, Tensor]:
    """The salient terms where each number of the code stands for a known attribute (N,), of the targets only (sec. 4)."""
    pairs = []
    for s in (s1, s2):
        for number, attribute in enumerate(attributes):
            width = CONTINUOUS if attribute.is_floating_point() else DISCRETE
            told, blank = s[is_target, number], s[~is_target, number : number + 1]
            aligned = (attribute_align(told, attribute, width) + align(torch.zeros_like(blank), blank, TAU)) / 2
            spread = uniform(without_background(s[:, number : number + 1], is_target), TAU)
            pairs.append(torch.stack([aligned, spread]))
    aligned, spread = torch.stack(pairs).mean(0)
    return {"salient_align": aligned, "salient_uniform": spread}


@torch.no_grad()
def tells(s: Tensor, is_target: Tensor) -> Tensor:
    """How often a target's salient code is longer than a background's: 1 where the sets are told apart, 0.5 by chance."""
    length = s.norm(dim=1)
    return (length[is_target][:, None] > length[~is_target]).float().mean()


class SepCLR(Method):
    """Two encoders: `common` for what background and target pictures share, `salient` for what targets alone show (sec. 3).

    L = common_align + 2 common_uniform + salient_weight (salient_align + 2 salient_uniform) + null_weight info_less
    + joint_weight * leakage, on two views of the joint batch. Leakage is what one code tells about the other: "k-jem"
    maximises the joint entropy with the same kernels, "k-mi" subtracts those of the codes, "vclub" bounds it by a learned
    Gaussian, "none" leaves it out. The product is the task `separate`; projections are dropped.

    Streams: `background`, `target`. Labels are not used. dim, salient_dim: widths of the projections. attributes: fields
    of the target examples that are known, whole numbers or real ones; each gets a number of the salient code of its own,
    salient_dim and null_weight then do not count, and uniformity counts once. crop, flip: the views; jitter: of brightness,
    contrast and saturation, a quarter of it of the hue; grey: how often a view loses its colours.

    Logs: `salient_tells_set`, how often a target's salient code is the longer one. Whatever tells the two sets apart counts as
    salient: the size of the files, the noise of a scanner.

    Deviation: each example draws its colours for itself, in the released code a batch draws together.
    """

    streams = ("background", "target")
    apart = ("background", "target")
    per_sample = False
    needs = {"common": {"pooled"}, "salient": {"pooled"}}
    tiny = {"salient_weight": 10.0, "null_weight": 10.0}  # at 1000 a step of SGD at a usual rate leads nowhere

    def __init__(
        self,
        common: Backbone,
        salient: Backbone,
        *,
        dim: int = 32,
        salient_dim: int = 32,
        leakage: Literal["k-jem", "k-mi", "vclub", "none"] = "k-jem",
        salient_weight: float = 1000.0,
        null_weight: float = 1000.0,
        joint_weight: float = 10.0,
        attributes: tuple[str, ...] = (),
        crop: tuple[float, float] = (0.2, 1.0),
        flip: bool = True,
        jitter: float = 0.4,
        grey: float = 0.2,
    ):
        super().__init__()
        for name, weight in (
            ("salient_weight", salient_weight),
            ("null_weight", null_weight),
            ("joint_weight", joint_weight),
        ):
            if weight < 0:
                raise MarrowError(f"a weight of {weight} is below 0", where=f"sepclr.{name}")
        for name, share in (("jitter", jitter), ("grey", grey)):
            if not 0 <= share <= 1:
                raise MarrowError(f"{share} is outside 0..1", where=f"sepclr.{name}")
        if twice := [name for name in attributes if attributes.count(name) > 1]:
            raise MarrowError(f"'{twice[0]}' is named twice", where="sepclr.attributes")
        check_widths("sepclr", dim=dim, salient_dim=salient_dim)
        self.task = Separate(common, salient)
        self.attributes, told = attributes, len(attributes) or salient_dim
        self.reads_labels = "label" in attributes
        self.heads = nn.ModuleDict({"common": projection(common.dim, HIDDEN, dim),
                                    "salient": projection(salient.dim, HIDDEN, told)})  # fmt: skip
        self.leakage = leakage
        self.salient_weight, self.null_weight, self.joint_weight = salient_weight, null_weight, joint_weight
        if leakage == "vclub":
            self.guess = ConditionalGaussian(dim, told)
        colours = Colours((jitter, jitter, jitter, jitter / 4), grey=grey)
        self.view = CropViews(common.input.size, crop=crop, flip=flip, first=colours, second=colours)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        background, target = batch["background"], batch["target"]
        codes = [self._codes(torch.cat([background[view], target[view]])) for view in ("view_1", "view_2")]
        counts = len(background["view_1"]), len(target["view_1"])
        is_target = torch.cat([codes[0][0].new_zeros(counts[0]), codes[0][0].new_ones(counts[1])])
        known = [self._attribute(target, name) for name in self.attributes]
        with torch.autocast(is_target.device.type, enabled=False):
            c1, s1, c2, s2 = (gathered(code.float()) for view in codes for code in view)
            is_target, known = gathered(is_target) > 0, [gathered(each) for each in known]
            check_batch(*(count * len(is_target) // sum(counts) for count in counts))
            c1, c2 = F.normalize(c1, dim=1), F.normalize(c2, dim=1)
            losses = self._weighted(terms(c1, c2, s1, s2, is_target), s1, s2, is_target, known)
            if self.leakage != "none":
                t1, t2 = without_background(s1, is_target), without_background(s2, is_target)
                losses |= self._leakage(c1, c2, t1, t2)
        return Step(losses, {"salient_tells_set": tells(s1, is_target)})

    def _codes(self, image: Tensor) -> list[Tensor]:
        return [self.heads[name](code) for name, code in self.task({"image": image}).items()]

    def _attribute(self, target: Mapping[str, Any], name: str) -> Tensor:
        if not isinstance(found := target.get(name), Tensor) or found.ndim != 1:
            raise MarrowError(f"the target examples have no field '{name}' with one number each", where="sepclr.attributes",
                              hint=f"They have {', '.join(target)}.")  # fmt: skip
        return found

    def _weighted(
        self, found: dict[str, Tensor], s1: Tensor, s2: Tensor, is_target: Tensor, known: list[Tensor]
    ) -> dict[str, Tensor]:
        if known:
            salient = {name: self.salient_weight * term for name, term in known_terms(s1, s2, is_target, known).items()}
            return {name: found[name] for name in ("common_align", "common_uniform")} | salient
        weights = {"common_align": 1.0, "common_uniform": 2.0, "salient_align": self.salient_weight,
                   "salient_uniform": 2 * self.salient_weight, "info_less": self.null_weight}  # fmt: skip
        return {name: weights[name] * term for name, term in found.items()}

    def _leakage(self, c1: Tensor, c2: Tensor, t1: Tensor, t2: Tensor) -> dict[str, Tensor]:
        if self.leakage == "vclub":
            bound = (self.guess.bound(c1, t1) + self.guess.bound(c2, t2)) / 2
            surprise = (self.guess.surprise(c1, t1) + self.guess.surprise(c2, t2)) / 2
            return {"information": self.joint_weight * bound, "surprise": surprise}
        both = (joint(c1, t1, TAU) + joint(c2, t2, TAU)) / 2
        if self.leakage == "k-jem":
            return {"joint_entropy": self.joint_weight * both}
        alone = sum(uniform(code, TAU) for code in (c1, c2, t1, t2)) / 2
        return {"information": self.joint_weight * (both - alone)}

    def views(self) -> CropViews:
        return self.view

    def product(self) -> Separate:
        return self.task


def check_batch(backgrounds: int, targets: int) -> None:
    """Raise unless the joint batch is large enough and has some of both kinds."""
    if (size := backgrounds + targets) < FEWEST:
        raise MarrowError(f"a joint batch of {size} is too small to estimate a density from; {FEWEST} or more are needed",
                          where="data.batch")  # fmt: skip
    if min(backgrounds, targets) < FEWEST_OF_EACH:
        raise MarrowError(f"a joint batch of {backgrounds} 'background' and {targets} 'target' cannot be compared; "
                          f"{FEWEST_OF_EACH} or more of each are needed", where="data.batch")  # fmt: skip
