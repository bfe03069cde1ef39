"""Cat: the representations of several training episodes side by side.

Zhang and Bottou, "Learning useful representations for shifting tasks and distributions", ICML 2023 (sec. 3). In recipes:
`{edit: cat, of: [{stage: 0}, {stage: 1}]}`.
"""

from __future__ import annotations

import dataclasses
from typing import Sequence

import torch
from torch import nn

from ..backbones.concatenated import CatBackbone
from ..core.contracts import Backbone, Edit, Task
from ..core.errors import MarrowError
from ..core.fit_check import model_name
from ..nn.cat_head import cat_head
from ..tasks.classify import Classify


@dataclasses.dataclass(frozen=True)
class Concatenate(Edit):
    """Backbones become one backbone; classifiers become one classifier, whose logits are the mean of theirs.

    Such a classifier gives "members": its head tells what each of them says. Training its head alone is the second stage
    of two-stage fine-tuning. Training everything from here is allowed, and in the paper no better than one network.
    """

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        if len(models) < 2:
            raise MarrowError("one model alone is not concatenated with anything; two or more are", where="cat")
        _check_distinct(models)
        backbones = [m for m in models if isinstance(m, Backbone)]
        tasks = [m for m in models if isinstance(m, Classify)]
        if len(backbones) == len(models):
            return CatBackbone(backbones)
        if len(tasks) == len(models):
            return _joined(tasks)
        names = ", ".join(model_name(m.spec) if isinstance(m, (Backbone, Task)) else type(m).__name__ for m in models)
        raise MarrowError(f"either backbones or classifiers are concatenated, got {names}", where="cat")


def _joined(tasks: Sequence[Classify]) -> Classify:
    named = [t.labels for t in tasks if t.labels]
    if other := next((n for n in named if n != named[0]), None):
        raise MarrowError(f"the members' classes are {', '.join(named[0][:5])} and {', '.join(other[:5])}; their logits "
                          "are averaged class by class", where="cat",
                          hint="Train them on the same classes in the same order.")  # fmt: skip
    first = tasks[0]
    head = cat_head([t.head for t in tasks])
    whole = Classify(
        CatBackbone([t.backbone for t in tasks]), classes=first.classes, label_smoothing=first.label_smoothing
    )
    whole.head, whole.labels = head, named[0] if named else None
    whole.gives = Classify.gives | {"members"}
    return whole


def _check_distinct(models: Sequence[nn.Module]) -> None:
    """Raise where two members have the same weights; without memory there is nothing to compare."""
    for i, model in enumerate(models):
        for j, earlier in enumerate(models[:i]):
            pairs = list(zip(model.parameters(), earlier.parameters()))
            if pairs and all(a.shape == b.shape and not a.is_meta and torch.equal(a, b) for a, b in pairs):
                raise MarrowError(f"members {j} and {i} have the same weights: concatenating them adds nothing",
                                  where="cat", hint="Give their stages different seeds.")  # fmt: skip
