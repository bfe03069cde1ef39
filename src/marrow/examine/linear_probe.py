"""How well does a linear classifier on a backbone's frozen features do?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.clip_input import ClipInput
from ..core.contracts import Probe, Report, seed_from
from ..core.errors import MarrowError
from ..data.measured_clips import MeasuredClips
from ..nn.embeddings import embeddings, one_that_embeds
from ..nn.logistic import logistic, standardised

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
HELD_OUT = 0.2  # of the training images, to choose the penalty


class LinearProbe(Probe):
    """The accuracy of logistic regression on pooled features; both streams are labelled.

    The features are standardised, as a BatchNorm in front of the classifier does. The penalty is chosen on a fifth of
    the training images, then all of them are used. The regression is solved to its minimum, so no learning rate or
    number of steps favours a width of features; published probes take some ten epochs of SGD.

    shots: of each class so many training images are drawn, `draws` times, and the mean accuracy is the row's value: the
    low-shot probe. None takes all images once. normalized: whether features are standardised.
    clips, crops: of each test video so many clips at equal distances, each cut so many times along its longer side; the
    mean of what is said of them counts, as in published figures (CVRL: 10 and 3). The classifier learns from one clip.

    Rows: top1 and balanced_top1, the mean recall over the classes present. Tensors: the top1 of each draw.
    """

    needs = {"model": set()}
    streams = ("train", "test")

    def __init__(
        self, *, shots: int | None = None, draws: int = 1, normalized: bool = True, clips: int = 1, crops: int = 1
    ):
        if clips < 1 or crops < 1:
            raise MarrowError(f"{clips} clips and {crops} crops: one of each is the least", where="linear_probe.clips")
        if draws < 1 or (shots is None and draws > 1):
            raise MarrowError(f"{draws} draws of all images are one and the same", where="linear_probe.draws",
                              hint="Give shots, the number of training images a class.")  # fmt: skip
        if shots is not None and shots < 2:
            raise MarrowError(f"{shots} images a class cannot be divided into some to learn from and some to choose with",
                              where="linear_probe.shots")  # fmt: skip
        self.shots, self.draws, self.normalized, self.clips, self.crops = shots, draws, normalized, clips, crops

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        several = self._clips(models["model"])
        known, label = _labelled(models["model"], data, "train", engine)
        asked, wanted = _labelled(models["model"], data, "test", engine, several)
        classes = int(max(label.max(), wanted.max())) + 1
        top1, balanced, penalties = [], [], []
        for draw in range(self.draws):
            rng = torch.Generator().manual_seed(seed_from("linear_probe", draw))
            chosen = torch.arange(len(label)) if self.shots is None else shots_of(label.cpu(), self.shots, rng)
            x, y = known[chosen], label[chosen]
            x, test = standardised(x, asked) if self.normalized else (x, asked)
            penalties.append(penalty := chosen_penalty(x, y, classes, rng))
            said = F.linear(test, *logistic(x, y, classes, penalty))
            said = (said.softmax(-1).mean(1) if several else said).argmax(1)
            right = (wanted * classes + said).bincount(minlength=classes**2).view(classes, classes)
            present = right.sum(1) > 0
            top1.append(float((said == wanted).double().mean()))
            balanced.append(float((right.diag()[present].double() / right.sum(1)[present]).mean()))
        facts = {"n": len(wanted), "train": len(y), "draws": self.draws, "penalty": sorted(penalties)[self.draws // 2]}
        return Report(
            [{"metric": "top1", "value": sum(top1) / self.draws, **facts},
             {"metric": "balanced_top1", "value": sum(balanced) / self.draws, **facts}],
            {"top1": torch.tensor(top1, dtype=torch.float64)},
        )  # fmt: skip

    def _clips(self, model: Any) -> MeasuredClips | None:
        if self.clips * self.crops == 1:
            return None
        input = one_that_embeds(model, "linear_probe.model").input
        if not isinstance(input, ClipInput):
            raise MarrowError("clips and crops are of videos, and the model takes pictures", where="linear_probe.clips")
        return MeasuredClips(input, self.clips, self.crops)


def shots_of(label: Tensor, shots: int, rng: torch.Generator) -> Tensor:
    """Indices of `shots` examples of each class (N,)."""
    order = torch.randperm(len(label), generator=rng)
    found = []
    for kind in label.unique().tolist():
        of_kind = order[label[order] == kind]
        if len(of_kind) < shots:
            raise MarrowError(f"class {kind} has {len(of_kind)} training images, {shots} are drawn of each",
                              where="linear_probe.shots")  # fmt: skip
        found.append(of_kind[:shots])
    return torch.cat(found)


def chosen_penalty(x: Tensor, y: Tensor, classes: int, rng: torch.Generator) -> float:
    """The penalty with the lowest cross-entropy on a part of (x, y) that was held out of each class; ties: the largest."""
    order = torch.randperm(len(y), generator=rng).to(y.device)
    out = torch.zeros(len(y), dtype=torch.bool, device=y.device)
    for kind in y.unique().tolist():
        of_kind = order[y[order] == kind]
        # At least one stays to learn from.
        out[of_kind[: min(max(1, round(HELD_OUT * len(of_kind))), len(of_kind) - 1)]] = True
    if not out.any():
        raise MarrowError("every class has a single training image, so no penalty can be chosen", where="linear_probe")
    losses = {}
    for penalty in PENALTIES:
        weight, bias = logistic(x[~out], y[~out], classes, penalty)
        losses[penalty] = float(F.cross_entropy(F.linear(x[out], weight, bias), y[out]))
    return min(reversed(PENALTIES), key=lambda penalty: losses[penalty])


def _labelled(
    model: Any, data: Any, stream: str, engine: Any, several: MeasuredClips | None = None
) -> tuple[Tensor, Tensor]:
    found, label = embeddings(model, data.streams[stream], engine, "linear_probe.model", several)
    if label is None:
        raise MarrowError(f"the stream '{stream}' has images without labels, and the probe is about labels",
                          where="linear_probe")  # fmt: skip
    return found, label
