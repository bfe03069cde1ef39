"""How few numbers does it take on average to classify an image, when sure ones take fewer?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..core.contracts import Probe, Report, Task
from ..core.errors import MarrowError
from ..core.training import evaluating
from ..nn.adaptive import adaptive, fit_thresholds
from ..tasks.nested_classify import NestedClassify


class AdaptiveClassification(Probe):
    """The smallest nested size answers whose largest probability is above its threshold.

    Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022 (sec. 4.2.1). The thresholds are found on the
    stream `thresholds`, whose images neither trained the model nor are in `test`. Rows: adaptive_top1 on `test` for all
    sizes, then for those up to `largest`, each with `mean_size`, the features that an image took; then top1 of every size
    for all images. Tensors: the thresholds.

    Deviation: the answers of mirrored images are not averaged.
    """

    needs = {"model": {"nested"}}
    streams = ("thresholds", "test")
    splits = {"thresholds": "val"}
    hears_answers = True

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        model = models["model"]
        if not isinstance(model, NestedClassify):
            raise MarrowError(f"classifiers of nested sizes are needed, {type(model).__name__} has none",
                              where="adaptive_classification.model", hint="matryoshka trains them.")  # fmt: skip
        probability, label = _answers(model, data.streams["thresholds"], engine, "thresholds")
        thresholds = fit_thresholds(probability, label)
        probability, label = _answers(model, data.streams["test"], engine, "test")
        sizes = torch.tensor(model.sizes, device=label.device)
        rows = []
        for count in range(len(sizes), 1, -1):
            said, used = adaptive(probability[:count], thresholds[: count - 1])
            rows.append({"metric": "adaptive_top1", "value": _share(said == label), "n": len(label),
                         "largest": int(sizes[count - 1]), "mean_size": float(sizes[used].double().mean())})  # fmt: skip
        for size, said in zip(model.sizes, probability.argmax(-1)):
            rows.append({"metric": "top1", "value": _share(said == label), "n": len(label), "size": size})
        return Report(rows, {"thresholds": thresholds.cpu()})


def _answers(model: Task, source: Any, engine: Any, stream: str) -> tuple[Tensor, Tensor]:
    """Probabilities (G, N, C) of the sizes in ascending order, and labels (N,)."""
    found, labels = [], []
    with evaluating(model, engine.device), torch.inference_mode():
        for batch in engine.batches(source, model.input):
            if "label" not in batch:
                raise MarrowError(f"the stream '{stream}' has images without labels, and what is right is told by labels",
                                  where="adaptive_classification")  # fmt: skip
            out = model(batch)
            found.append(torch.stack([model.at(out, size).float().softmax(-1) for size in model.sizes]))
            labels.append(batch["label"])
    return torch.cat(found, 1), torch.cat(labels)


def _share(right: Tensor) -> float:
    return float(right.double().mean())
