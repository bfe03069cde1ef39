"""The embeddings that a model gives the images of a source."""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import Tensor

from ..core.contracts import Backbone, Task, stem_of
from ..core.errors import MarrowError
from ..core.loader import View
from ..core.runtime import Runner
from ..core.source import Source
from ..core.training import evaluating

AT_ONCE = 8  # examples of several inputs each


def embeddings(
    model: Backbone | Task | Runner, source: Source, engine: Any, where: str, several: View | None = None
) -> tuple[Tensor, Tensor | None]:
    """(N, D) in the order of the source, and the labels (N,) where it has them.

    They are the pooled features of a backbone or of the one inside a task, and an exported file's output "embedding".
    several: a view that makes an `image` (K, ...) of K inputs of each example; the embeddings are then (N, K, D).
    """
    found, batches = embeddings_and(("label",), model, source, engine, where, several)
    labels = [batch["label"] for batch in batches if "label" in batch]
    return found, torch.cat(labels) if len(labels) == len(batches) else None


def embeddings_and(
    fields: Sequence[str],
    model: Backbone | Task | Runner,
    source: Source,
    engine: Any,
    where: str,
    several: View | None = None,
) -> tuple[Tensor, list[dict[str, Any]]]:
    """As `embeddings`, and of each batch those of these fields that it has."""
    model = one_that_embeds(model, where)
    found, kept = [], []
    batches = engine.batches(source, several, AT_ONCE) if several else engine.batches(source, model.input)
    with evaluating(model, engine.device), torch.inference_mode():
        for batch in batches:
            image = batch["image"].flatten(0, 1) if several else batch["image"]
            made = model(image).pooled if isinstance(model, Backbone) else model({**batch, "image": image})["embedding"]
            found.append(made.unflatten(0, batch["image"].shape[:2]) if several else made)
            kept.append({name: batch[name] for name in fields if name in batch})
    return torch.cat(found).float(), kept


def one_that_embeds(model: Backbone | Task | Runner, where: str) -> Backbone | Runner:
    if isinstance(model, Task):
        inside = [m for m in model.children() if isinstance(m, Backbone)]
        if len(inside) != 1:
            raise MarrowError(f"{stem_of(type(model))} has {len(inside)} backbones, so it is not clear whose features are "
                              "meant", where=where, hint="Name one with `part:`.")  # fmt: skip
        return inside[0]
    if isinstance(model, Runner) and "embedding" not in model.outputs:
        raise MarrowError(f"the exported file gives {', '.join(model.outputs)} and no embedding", where=where,
                          hint="Export {task: embed, backbone: ...}.")  # fmt: skip
    return model
