"""Does each of two codes hold what it should, and not what the other should?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from ..core.contracts import Probe, Report, stem_of
from ..core.errors import MarrowError
from ..nn.embeddings import embeddings
from ..nn.logistic import logistic, standardised

CODES = ("salient", "common")
PENALTY = 1e-2


class Separation(Probe):
    """The accuracies of logistic regression on the pooled features of two backbones, for two kinds of labels (sec. 4.1 of
    Louiset et al., ICLR 2024).

    Streams: pictures of the target set with labels of what is common (`common_train`, `common_test`) and of what is salient
    (`salient_train`, `salient_test`); the pictures may be the same.

    Rows: separation, (salient from the salient code - common from it) + (common from the common code - salient from it),
    at most 2; the four accuracies; each with its chance, the share of the most frequent label.
    """

    needs = {"common": set(), "salient": set()}
    streams = ("common_train", "common_test", "salient_train", "salient_test")

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        rows: list[dict[str, Any]] = []
        for code in CODES:
            for labels in CODES:
                known, label = self._embedded(models, code, data, f"{labels}_train", engine)
                asked, wanted = self._embedded(models, code, data, f"{labels}_test", engine)
                classes = int(max(label.max(), wanted.max())) + 1
                x, test = standardised(known, asked)
                said = F.linear(test, *logistic(x, label, classes, PENALTY)).argmax(1)
                rows.append({"metric": f"{code}_tells_{labels}", "value": float((said == wanted).double().mean()),
                             "n": len(wanted), "chance": int(wanted.bincount().max()) / len(wanted)})  # fmt: skip
        first, second, third, fourth = (row["value"] for row in rows)
        gap = first + fourth - second - third  # what each code tells of its own labels, less what leaks into the other
        return Report([{"metric": "separation", "value": gap, "n": rows[0]["n"]}, *rows])

    def _embedded(
        self, models: dict[str, nn.Module], code: str, data: Any, stream: str, engine: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found, label = embeddings(models[code], data.streams[stream], engine, f"{stem_of(type(self))}.{code}")
        if label is None:
            raise MarrowError(f"the stream '{stream}' has images without labels, and the probe is about labels",
                              where=stem_of(type(self)))  # fmt: skip
        return found, label
