"""The beginning of a nested embedding as a model of its own."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from typing import Any, Sequence

import torch
from torch import nn

from ..backbones.shortened import ShortenedBackbone
from ..core.contracts import Backbone, Cut, Edit, Shrinker, Task, stem_of
from ..core.errors import MarrowError
from ..nn.nested import check_trained
from ..tasks.classify import Classify
from ..tasks.embed import Embed
from ..tasks.nested_classify import NestedClassify
from ..tasks.retrieve import Retrieve


@dataclasses.dataclass(frozen=True)
class Shorten(Edit):
    """With the first `size` features only: `nested_classify` becomes `classify`, `embed` and `retrieve` stay what they are."""

    size: int

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        (model,) = models
        _check(model, self.size)
        backbone = ShortenedBackbone(model.backbone, self.size)
        match model:
            case NestedClassify():
                made = Classify(backbone, classes=model.classes, label_smoothing=model.label_smoothing)
                made.head = model.head.at(self.size)
            case Retrieve():
                made = Retrieve(backbone, classes=model.classes, temperature=model.temperature)
                made.directions = nn.Parameter(model.directions.detach()[:, : self.size].clone())
            case _:
                made = Embed(backbone)
        made.labels = model.labels
        return made.train(model.training)


class NestedSize(Shrinker):
    """Cuts a model that `matryoshka` trained to one of its nested sizes; nothing is trained.

    An embedding has length 1 again after the cut. Where one head serves all sizes, and for embeddings, a size between two
    trained ones may be asked for: it is about as good as they are (the paper's sec. 4.1). The backbone computes what it did,
    so what gets smaller is what is stored, searched and classified.
    """

    needs = {"model": {"nested"}}
    by_shape = True
    tiny = {"size": 8}

    def __init__(self, *, size: int):
        self.size = size

    def plan(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Cut:
        edit = Shorten(self.size)
        with torch.device("meta"):
            edit.apply([deepcopy(models["model"]).to("meta")])
        return Cut(edit)


def _check(model: nn.Module, size: int) -> None:
    if not (isinstance(model, (NestedClassify, Embed, Retrieve)) and model.sizes):
        name = stem_of(type(model)) if isinstance(model, (Backbone, Task)) else type(model).__name__
        raise MarrowError(f"this {name} names no nested sizes, and the first {size} features of a model that was not trained "
                          "for them are no embedding", where="nested_size.model",
                          hint="Train it by matryoshka.")  # fmt: skip
    one_head_each = isinstance(model, NestedClassify) and not model.tied
    check_trained(size, model.sizes, "nested_size.size", between=not one_head_each)
