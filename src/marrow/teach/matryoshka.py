"""Matryoshka: every beginning of an embedding is an embedding, so one net serves any budget of numbers.

Kusupati et al., "Matryoshka Representation Learning", NeurIPS 2022.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contracts import Clock, Method, Step, Task, stem_of
from ..core.errors import MarrowError
from ..core.inner_method import asks_a_teacher, check_asks, check_inner
from ..core.table import Table
from ..nn.nested import check_sizes, nested_sizes
from ..tasks.classify import Classify
from ..tasks.nested_classify import NestedClassify
from ..tasks.retrieve import Retrieve


def shortened(z: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """The first `size` numbers of embeddings (B, D), of length 1 again."""
    for name, value in z.items():
        if value.shape[-1] < size:
            raise MarrowError(f"size {size} > embedding width {value.shape[-1]} of '{name}'", where="matryoshka.sizes")
    return {name: F.normalize(value[..., :size].float(), dim=-1) for name, value in z.items()}


def nested_classify(task: Classify, sizes: tuple[int, ...], tied: bool) -> NestedClassify:
    """The same classifier with one head a size, each of which starts from the one that is there."""
    made = NestedClassify(
        task.backbone, classes=task.classes, sizes=sizes, tied=tied, label_smoothing=task.label_smoothing
    )
    made.head.start_from(task.head)
    made.labels = task.labels
    return made


def nested_retrieve(task: Retrieve, sizes: tuple[int, ...]) -> Retrieve:
    made = Retrieve(task.backbone, classes=task.classes, temperature=task.temperature,
                    sizes=sizes or nested_sizes(task.backbone.dim))  # fmt: skip
    made.labels = task.labels
    made.directions = nn.Parameter(task.directions.detach()[:, : made.sizes[-1]].clone())
    return made


class Matryoshka(Method):
    """The sum over nested sizes of another method's loss, each on the first m numbers only (eq. 1).

    inner: a method that gives "embedding-loss". Where it trains `classify`, the head is replaced by one a size (MRL) or, with
    `tied`, by one whose first columns serve the smaller sizes (MRL-E); nothing is normalised. Embeddings of `retrieve` and of
    other methods are cut and brought to length 1 again. The backbone and the inner method's teacher run once a step.
    sizes: ascending, by default the width halved down to about 8; one size alone is the paper's fixed-feature baseline.
    weights: the importance of each size, by default 1. sizes_per_step: so many of the sizes are drawn for each step, and
    their losses scaled up to the sum over all in the mean; 0 takes all.
    """

    def __init__(
        self,
        inner: Method,
        *,
        sizes: tuple[int, ...] = (),
        weights: tuple[float, ...] = (),
        tied: bool = False,
        sizes_per_step: int = 0,
    ):
        super().__init__()
        check_inner(inner, "matryoshka")
        self.inner, self.per_sample, self.reads_labels = inner, inner.per_sample, inner.reads_labels
        self.nested = nest(inner, tuple(sizes), tied)
        self.sizes: tuple[int, ...] = getattr(inner, self.nested).sizes if self.nested else tuple(sizes)
        self.weights = tuple(weights) or (1.0,) * len(self.sizes)
        if len(self.weights) != len(self.sizes):
            raise MarrowError(f"{len(self.weights)} weights for {len(self.sizes)} sizes", where="matryoshka.weights")
        if min(self.weights) <= 0:
            raise MarrowError(f"{min(self.weights)} is not a positive number", where="matryoshka.weights")
        if not 0 <= sizes_per_step <= len(self.sizes):
            raise MarrowError(f"{sizes_per_step} of {len(self.sizes)} sizes cannot be drawn",
                              where="matryoshka.sizes_per_step")  # fmt: skip
        self.sizes_per_step = sizes_per_step or len(self.sizes)

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        if asks_a_teacher(self.inner):
            batch = {**batch, "targets": self.taught(batch)}
        z = self.inner.embed(batch)
        scale = len(self.sizes) / self.sizes_per_step
        losses, logs = {}, {}
        for i in self._drawn(clock):
            step = self.inner.score(self._at(z, self.sizes[i]), batch, clock)
            losses |= {f"{k}_{self.sizes[i]}": scale * self.weights[i] * v for k, v in step.losses.items()}
            logs |= {f"{k}_{self.sizes[i]}": v for k, v in (step.logs or {}).items()}
        return Step(losses, logs)

    def _drawn(self, clock: Clock) -> list[int]:
        count = len(self.sizes)
        if self.sizes_per_step == count:
            return list(range(count))
        return sorted(torch.randperm(count, generator=clock.rng)[: self.sizes_per_step].tolist())

    def _at(self, z: dict[str, Tensor], size: int) -> dict[str, Tensor]:
        task = getattr(self.inner, self.nested) if self.nested else None
        if isinstance(task, NestedClassify):
            return {"logits": task.at(z, size)}
        return shortened({"embedding": z["embedding"]} if isinstance(task, Retrieve) else z, size)

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        check_asks(self.inner, "matryoshka")
        return self.inner.targets(batch)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return self.inner.groups()

    def after_step(self, clock: Clock) -> None:
        self.inner.after_step(clock)

    def views(self) -> Callable[[dict], dict] | None:
        return self.inner.views()

    def product(self) -> nn.Module | Table:
        return self.inner.product()


def nest(inner: Method, sizes: tuple[int, ...], tied: bool) -> str:
    """Put nested sizes into the one task that the method trains, and give its role; "" where it trains no task.

    A task that is nested already keeps its sizes.
    """
    tasks = [(name, child) for name, child in inner.named_children() if isinstance(child, Task)]
    if not tasks:
        if tied:
            raise MarrowError("there is no head whose columns the sizes could share", where="matryoshka.tied")
        if not sizes:
            raise MarrowError(f"how wide the embeddings of {stem_of(type(inner))} are is not known before it runs",
                              where="matryoshka.sizes", hint="Name the sizes.")  # fmt: skip
        check_sizes(sizes, sizes[-1], "matryoshka.sizes")
        return ""
    [(name, task), *others] = tasks
    stem = stem_of(type(task))
    if others:
        raise MarrowError(f"{stem_of(type(inner))} trains {len(tasks)} tasks; one is nested", where="matryoshka.inner")
    if not isinstance(task, (Classify, NestedClassify, Retrieve)):
        raise MarrowError(f"{stem} has no embedding that could be cut; classify and retrieve have one",
                          where="matryoshka.inner")  # fmt: skip
    if sizes:
        check_sizes(sizes, task.backbone.dim, "matryoshka.sizes")
    if isinstance(task, Classify):
        setattr(inner, name, nested_classify(task, sizes, tied))
    elif tied:
        raise MarrowError(
            f"it is about the heads that classify is given; {stem} keeps its own", where="matryoshka.tied"
        )
    elif not task.sizes:
        setattr(inner, name, nested_retrieve(task, sizes))
    elif sizes not in ((), task.sizes):
        raise MarrowError(f"the task was built for the sizes {', '.join(map(str, task.sizes))}", where="matryoshka.sizes",
                          hint="Leave sizes out.")  # fmt: skip
    return name
