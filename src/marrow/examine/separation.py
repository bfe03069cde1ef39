"""Does each of two codes hold what it should, and not what the other should?"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Probe, Report, stem_of
from ..core.errors import MarrowError
from ..nn.by_domain import domains_of
from ..nn.embeddings import embeddings_and
from ..nn.logistic import logistic, standardised

CODES = ("salient", "common")
PENALTY = 1e-2


class Embedded(NamedTuple):
    code: Tensor  # (N, D)
    label: Tensor  # (N,)


def told(metric: str, train: Embedded, test: Embedded) -> dict[str, Any]:
    """A row: the accuracy on `test` of logistic regression on `train`, with the share of the most frequent label."""
    classes = int(max(train.label.max(), test.label.max())) + 1
    x, asked = standardised(train.code, test.code)
    said = F.linear(asked, *logistic(x, train.label, classes, PENALTY)).argmax(1)
    return {"metric": metric, "value": float((said == test.label).double().mean()), "n": len(said),
            "chance": int(test.label.bincount().max()) / len(said)}  # fmt: skip


class Separation(Probe):
    """The accuracies of logistic regression on the pooled features of two backbones, for two kinds of labels (sec. 4.1 of
    Louiset et al., ICLR 2024).

    Streams: pictures of the target set with labels of what is common (`common_train`, `common_test`) and of what is salient
    (`salient_train`, `salient_test`); the pictures may be the same.

    background: the `domain` of those sources of the common streams whose pictures are of the background set. They count
    for `salient_tells_set` and `common_tells_set` alone, which say how well each code tells the two sets apart.

    Rows: separation, (salient from the salient code - common from it) + (common from the common code - salient from it),
    at most 2; the four accuracies; with `background` those of the sets; each with its chance, the share of the most
    frequent label.
    """

    needs = {"common": set(), "salient": set()}
    streams = ("common_train", "common_test", "salient_train", "salient_test")

    def __init__(self, *, background: str | None = None):
        self.background = background

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        found: dict[str, dict[str, Any]] = {}
        sets = []
        for code in CODES:
            for labels in CODES:
                both = [self._embedded(models, code, data, f"{labels}_{part}", engine) for part in ("train", "test")]
                if self.background is not None and labels == "common":
                    sets.append(told(f"{code}_tells_set", *(Embedded(seen.code, s.long()) for seen, s in both)))
                name = f"{code}_tells_{labels}"
                found[name] = told(name, *(Embedded(seen.code[s], seen.label[s]) for seen, s in both))
        value = {name: row["value"] for name, row in found.items()}
        gap = (value["salient_tells_salient"] - value["salient_tells_common"]
               + value["common_tells_common"] - value["common_tells_salient"])  # fmt: skip
        first = {"metric": "separation", "value": gap, "n": found["salient_tells_salient"]["n"]}
        return Report([first, *found.values(), *sets])

    def _embedded(
        self, models: dict[str, nn.Module], code: str, data: Any, stream: str, engine: Any
    ) -> tuple[Embedded, Tensor]:
        """All pictures of the stream, and which of them are of the target set, (N,) bool."""
        stem = stem_of(type(self))
        found, batches = embeddings_and(
            ("label", "domain"), models[code], data.streams[stream], engine, f"{stem}.{code}"
        )
        if any("label" not in batch for batch in batches):
            raise MarrowError(
                f"the stream '{stream}' has images without labels, and the probe is about labels", where=stem
            )
        embedded = Embedded(found, torch.cat([batch["label"] for batch in batches]))
        if self.background is None or stream.startswith("salient"):
            return embedded, torch.ones_like(embedded.label, dtype=torch.bool)
        domains = [name for batch in batches for name in domains_of(batch, f"{stem}.{stream}")]
        is_target = torch.tensor([name != self.background for name in domains], device=found.device)
        if is_target.all() or not is_target.any():
            names = ", ".join(sorted(set(domains)))
            raise MarrowError(f"the pictures of '{stream}' are of the domains {names}; '{self.background}' and another are "
                              "needed", where=f"{stem}.background")  # fmt: skip
        return embedded, is_target
