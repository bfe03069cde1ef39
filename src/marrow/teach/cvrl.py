"""CVRL: two clips of a video are to find each other among the clips of other videos.

Qian et al., "Spatiotemporal Contrastive Video Representation Learning", CVPR 2021.
"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor, nn

from ..core.contracts import Backbone, Clock, Method, Step
from ..core.errors import MarrowError
from ..core.footage import footage
from ..core.loader import source_of
from ..core.source import Source, Unreadable
from ..data.clip_interval import check_power
from ..data.clip_views import ClipViews
from ..nn.info_nce import nt_xent, unit

LOOKED_AT = 50  # videos, before the training


def clip_contrast(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The two mean cross-entropies of NT-Xent, from the first clips and from the second, added up (eq. 1).

    a, b: (B, D). The positive of a clip is the other of its video, negatives are all others of the batch, of both kinds.
    """
    return 2.0 * nt_xent(a, b, temperature)


@torch.no_grad()
def share_found(a: Tensor, b: Tensor) -> Tensor:
    """The share of rows of a (B, D) whose nearest row of b, by cosine, is their own."""
    nearest = (unit(a) @ unit(b).mT).argmax(1)
    return (nearest == torch.arange(len(a), device=a.device)).float().mean()


def head(inside: int, hidden: int, layers: int, out: int) -> nn.Sequential:
    """So many hidden layers with BatchNorm and ReLU, and a linear one (sec. 3.3)."""
    widths = [inside, *[hidden] * layers]
    parts: list[nn.Module] = []
    for before, after in zip(widths, widths[1:]):
        parts += [nn.Linear(before, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*parts, nn.Linear(widths[-1], out))


def shorter(videos: Source, least: int) -> tuple[int, int]:
    """How many of some videos, and of how many, have fewer than `least` frames."""
    step = max(1, len(videos) // LOOKED_AT)
    lengths = []
    for index in range(0, len(videos), step):
        try:
            lengths.append(len(footage(videos.undecoded(index)["image"], "cvrl")))
        except Unreadable:  # the loader counts it
            continue
    return sum(length < least for length in lengths), len(lengths)


class CVRL(Method):
    """Contrast of clips that are near in time more often than far, each changed alike in all its frames (sec. 3).

    The clips are as long as the backbone's spec says. power: the distance t of two clips' beginnings has a density that
    goes with 1 - (t / largest)^power; infinite is uniform, and below 0 it rises with (t / largest)^-power. consistent: each frame is cut and coloured as the whole clip,
    else by itself, which the paper argues against. flip: not where left and right mean something. hidden, layers, out: of
    the head that is dropped afterwards.

    Logs: `found`, how often a clip's other clip is the nearest; `looped`, the share of videos that are shorter than a clip
    and are run through again, of which the run warns before it begins.

    out=None leaves the head out and contrasts the pooled features themselves, whose first numbers are then embeddings by
    themselves inside `matryoshka`.
    """

    reads_labels = False
    needs = {"backbone": {"clips"}}
    streams = ("videos",)
    per_sample = False
    gives = frozenset({"embedding-loss"})

    def __init__(
        self,
        backbone: Backbone,
        *,
        hidden: int = 2048,
        layers: int = 3,
        out: int | None = 128,
        temperature: float = 0.1,
        power: float = 1.0,
        crop: tuple[float, float] = (0.3, 1.0),
        flip: bool = True,
        consistent: bool = True,
    ):
        super().__init__()
        check_power(power, "cvrl.power")
        if temperature <= 0:
            raise MarrowError(f"{temperature} is not above 0", where="cvrl.temperature")
        if layers < 0 or hidden < 1 or (out is not None and out < 1):
            raise MarrowError(
                f"{layers} hidden layers of {hidden} and an output of {out} make no head", where="cvrl.layers"
            )
        self.backbone = backbone
        self.head = nn.Identity() if out is None else head(backbone.dim, hidden, layers, out)
        self.temperature = temperature
        self.view = ClipViews.of(backbone.input, power=power, crop=crop, flip=flip, consistent=consistent)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        return self.score(self.embed(batch), batch, clock)

    def embed(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """{"clip_1", "clip_2": (B, D)} behind the head"""
        if not {"clip_1", "clip_2"} <= set(batch):
            raise MarrowError("the batch has no 'clip_1' and 'clip_2'; its views make them of videos", where="cvrl")
        if len(batch["clip_1"]) < 2:
            raise MarrowError("a batch of one video has no other to tell its own clips apart from", where="data.batch")
        return {name: self.head(self.backbone(batch[name]).pooled) for name in ("clip_1", "clip_2")}

    def score(self, z: dict[str, Tensor], batch: Mapping[str, Any], clock: Clock) -> Step:
        a, b = z["clip_1"], z["clip_2"]
        logs = {"found": share_found(a, b), "looped": batch["looped"].float().mean()}
        return Step({"contrast": clip_contrast(a, b, self.temperature)}, logs)

    def remarks(self, data: Any) -> list[str]:
        least = 1 + (self.view.frames - 1) * self.view.stride
        short, looked = shorter(source_of(data, "videos"), least)
        return [f"{short} of {looked} videos looked at have fewer than the {least} frames of a clip and are run through "
                "again"] if short else []  # fmt: skip

    def views(self) -> ClipViews:
        return self.view

    def product(self) -> Backbone:
        return self.backbone
