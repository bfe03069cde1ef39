"""V-REx: a net whose loss is alike on all domains that it sees is to do no worse on those that it does not.

Krueger et al., "Out-of-Distribution Generalization via Risk Extrapolation (REx)", ICML 2021.
"""

from __future__ import annotations

from typing import Any, Callable, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..core.contracts import Clock, Method, Step
from ..core.errors import MarrowError
from ..core.inner_method import asks_a_teacher, check_asks, check_inner
from ..core.table import Table
from ..nn.by_domain import rows_by_domain, taken
from ..nn.gathered import gathered


def pooled_risks(sums: Tensor, counts: Tensor) -> Tensor:
    """The mean loss of each domain (E,) over all processes, from each process's sums and numbers of examples (E,)."""
    return gathered(sums[None]).sum(0) / gathered(counts[None]).sum(0)


class VREx(Method):
    """Another method's loss in the mean over the domains, and `weight` times its variance over them (V-REx).

    inner: a method that gives "embedding-loss". Around `supervised` with `head_only` it trains the classifier on frozen
    features, as Zhang and Bottou do for rich representations (ICML 2023). Every source of the stream says its `domain`;
    every domain counts alike, however many images it has.
    weight: beta, per mean of the losses where the paper has their sum. Until `wait`, a share of the training, it is 1 at
    most: the variance of the losses of a net that knows nothing says nothing. Batches are to hold several images of each
    domain.

    Logs: `worst`, the largest loss of a domain.
    """

    per_sample = False

    def __init__(self, inner: Method, *, weight: float = 10.0, wait: float = 0.1):
        super().__init__()
        check_inner(inner, "vrex")
        if weight < 0:
            raise MarrowError(f"{weight} is below 0: domains would be made unlike each other", where="vrex.weight")
        if not 0 <= wait <= 1:
            raise MarrowError(f"{wait} is no share of the training within 0..1", where="vrex.wait")
        self.inner, self.weight, self.wait = inner, weight, wait
        self.reads_labels = inner.reads_labels

    def forward(self, batch: Mapping[str, Any], clock: Clock, player: str = "main") -> Step:
        risks = self._risks(batch, clock)
        if len(risks) < 2:
            raise MarrowError("all images of a batch are from one domain, and a variance over domains needs two",
                              where="vrex", hint="Add sources of other domains, or take a larger batch.")  # fmt: skip
        weight = self.weight if clock.progress >= self.wait else min(1.0, self.weight)
        return Step(
            {"risk": risks.mean(), "variance": weight * risks.var(correction=0)}, {"worst": risks.max().detach()}
        )

    def _risks(self, batch: Mapping[str, Any], clock: Clock) -> Tensor:
        """The inner method's loss on each domain (E,), the batches of all processes together."""
        if asks_a_teacher(self.inner):
            batch = {**batch, "targets": self.taught(batch)}
        rows = rows_by_domain(batch, "data.train")
        z = self.inner.embed(batch)
        sums, counts = [], []
        for name in _everywhere(rows):
            own = rows.get(name, [])
            counts.append(len(own))
            losses = self.inner.score(taken(z, own), taken(batch, own), clock).losses if own else {}
            sums.append(
                len(own) * torch.stack(list(losses.values())).sum() if own else next(iter(z.values())).sum() * 0.0
            )
        return pooled_risks(torch.stack(sums), torch.tensor(counts, device=sums[0].device, dtype=sums[0].dtype))

    def targets(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        check_asks(self.inner, "vrex")
        return self.inner.targets(batch)

    def groups(self) -> dict[str, list[nn.Parameter]]:
        return self.inner.groups()

    def after_step(self, clock: Clock) -> None:
        self.inner.after_step(clock)

    def views(self) -> Callable[[dict], dict] | None:
        return self.inner.views()

    def product(self) -> nn.Module | Table:
        return self.inner.product()


def _everywhere(rows: Mapping[str, list[int]]) -> list[str]:
    """The domains that any process has in its batch, in one order for all of them."""
    if not dist.is_initialized():
        return list(rows)
    known: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(known, list(rows))
    return sorted({name for names in known for name in names})
