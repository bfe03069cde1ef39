"""How well does a linear classifier of single places do on a backbone's frozen map?"""

from __future__ import annotations

import dataclasses
from typing import Any, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Backbone, Probe, Report, seed_from
from ..core.errors import MarrowError
from ..core.source import VOID
from ..core.training import evaluating
from ..data.views import resize
from ..nn.logistic import logistic, standardised
from ..tasks.segment import Segment, SegmentMetric

MOST = 50_000  # places to learn from; more are drawn from
PENALTY = 1e-3


class DenseProbe(Probe):
    """The mean IoU of logistic regression on the places of a map; its logits are enlarged bilinearly to the masks' size.

    Both streams have masks. A place learns the class of the pixel at its centre. Features are standardised, the penalty is
    1e-3, and the regression is solved to its minimum, so no learning rate favours a net. stage: which map, -1 the last.

    Rows: those of `segment`.
    """

    needs = {"model": {"maps"}}
    streams = ("train", "test")

    def __init__(self, *, stage: int = -1):
        self.stage = stage

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        inside = [m for m in models["model"].modules() if isinstance(m, Backbone)]
        if len(inside) != 1:
            raise MarrowError(f"the model has {len(inside)} backbones, so it is not clear whose map is meant",
                              where="dense_probe.model", hint="Name one with `part:`.")  # fmt: skip
        places, classes = [], []
        for found, mask in self._maps(inside[0], data.streams["train"], engine):
            small = torch.stack([resize(m[None], (found.shape[-2], found.shape[-1]))[0] for m in mask]).flatten()
            places.append(found.permute(0, 2, 3, 1).flatten(0, 2)[small != VOID])
            classes.append(small[small != VOID])
        x, y = torch.cat(places), torch.cat(classes)
        if not len(y):
            raise MarrowError("no place of the training masks has a known class", where="dense_probe")
        chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed_from("dense_probe")))[:MOST].to(
            y.device
        )
        x, y, count = x[chosen], y[chosen], int(y.max()) + 1
        (scaled,) = standardised(x)
        weight, bias = logistic(scaled, y, max(count, 2), PENALTY)
        metric = SegmentMetric()
        for found, mask in self._maps(inside[0], data.streams["test"], engine):
            _, asked = standardised(x, found.permute(0, 2, 3, 1))
            logits = F.linear(asked, weight, bias).permute(0, 3, 1, 2)
            logits = F.interpolate(logits, (mask.shape[-2], mask.shape[-1]), mode="bilinear")
            metric.update(Segment.decode({"logit_maps": logits}, {}), {"mask": mask})
        return Report([{**row, "train": len(y)} for row in metric.compute()])

    def _maps(self, backbone: Backbone, source: Any, engine: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Maps (B, C, h, w) and masks (B, H, W) of whole pictures."""
        whole = dataclasses.replace(backbone.input, resize="squash", crop_pct=1.0)
        with evaluating(backbone, engine.device), torch.inference_mode():
            for batch in engine.batches(source, whole, 32):
                if "mask" not in batch:
                    raise MarrowError("the images have no masks, and the probe is about masks", where="dense_probe")
                yield backbone(batch["image"], maps=(self.stage,)).maps[0].float(), batch["mask"]
