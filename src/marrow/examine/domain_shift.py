"""How much is lost on domains that a model was not trained on?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from ..core.contracts import Probe, Report, Task
from ..core.errors import MarrowError
from ..core.training import evaluating
from ..nn.by_domain import rows_by_domain, taken


class DomainShift(Probe):
    """The model's own metric on each domain by itself: photos, sketches, cameras, hospitals.

    Each source of `test` says its `domain`. seen: the domains that the model was trained on; they are shown and left out
    of the summary.

    Rows: those of the task's metric for each domain, then the mean and the worst value over the unseen domains of its
    first metric, every domain counting alike.
    """

    needs = {"model": set()}
    streams = ("test",)
    hears_answers = True

    def __init__(self, *, seen: tuple[str, ...] = ()):
        self.seen = seen

    def run(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Report:
        task, source = models["model"], data.streams["test"]
        if isinstance(task, nn.Module) and not isinstance(task, Task):
            raise MarrowError("a backbone gives no answers to measure; a task does", where="domain_shift.model",
                              hint="{task: classify, backbone: ..., classes: 10}")  # fmt: skip
        metrics: dict[str, Any] = defaultdict(task.metric)
        with evaluating(task, engine.device), torch.inference_mode():
            for batch in engine.batches(source, task.input, task.at_once):
                found = rows_by_domain(batch, "domain_shift.test")
                decoded = task.decode(task(batch), batch)
                for name, rows in found.items():
                    metrics[name].update(taken(decoded, rows), taken(batch, rows))
        if missing := sorted(set(self.seen) - set(metrics)):
            raise MarrowError(f"no image is from '{missing[0]}'; there are {', '.join(sorted(metrics))}",
                              where="domain_shift.seen")  # fmt: skip
        unseen = sorted(set(metrics) - set(self.seen))
        if len(metrics) < 2 or not unseen:
            raise MarrowError(f"all images are from {' and '.join(sorted(metrics))}, so there is no shift to look at",
                              where="domain_shift.test", hint="Add a source of another domain.")  # fmt: skip
        table = {name: metrics[name].compute() for name in sorted(metrics)}
        rows = [{**row, "domain": name, "seen": name in self.seen} for name, own in table.items() for row in own]
        first = {name: table[name][0] for name in unseen}
        values = [row["value"] for row in first.values()]
        facts = {"n": sum(row["n"] for row in first.values()), "domain": ", ".join(unseen), "seen": False}
        metric = first[unseen[0]]["metric"]
        return Report([*rows, {"metric": f"mean_{metric}", "value": sum(values) / len(values), **facts},
                       {"metric": f"worst_{metric}", "value": min(values), **facts}])  # fmt: skip
