"""Which measures of an object does a classifier rely on: its shape, its colour, its texture?"""

from __future__ import annotations

from typing import Any, Mapping

import torch
from torch import Tensor

from ..core.contracts import Probe, Report, Task
from ..core.errors import MarrowError
from ..core.training import evaluating
from ..data.object_features import feature_names


class ObjectImportance(Probe):
    """What a metric loses when the measures of one group are exchanged between the examples (Breiman, 2001, sec. 10).

    The columns of a group move together, so what its measures say about each other stays true. `repeats` exchanges are
    drawn and their losses averaged; a group that the model does not need loses nothing. Give images that it was not trained
    on. Rows: the metric as it is, then the mean loss of each group.
    """

    needs = {"model": {"logits"}}
    streams = ("test",)
    hears_answers = True

    def __init__(self, *, metric: str = "top1", repeats: int = 5):
        if repeats < 1:
            raise MarrowError(f"{repeats} exchanges show nothing; 1 or more fits", where="object_importance.repeats")
        self.metric, self.repeats = metric, repeats

    def run(self, models: dict[str, Task], data: Any, engine: Any) -> Report:
        task = models["model"]
        batches = list(engine.batches(data.streams["test"], task.input))
        names = feature_names()
        for batch in batches:
            if "objects" not in batch or batch["objects"].shape[1] != len(names):
                raise MarrowError(f"the examples lack the field 'objects' with {len(names)} measures",
                                  where="object_importance.test", hint="Give 'objects' with the source.")  # fmt: skip
        objects = torch.cat([batch["objects"] for batch in batches])
        draw = torch.Generator().manual_seed(0)
        with evaluating(task, engine.device), torch.inference_mode():
            whole = self._measured(task, batches, objects)
            rows = [{"metric": self.metric, "value": whole, "n": len(objects)}]
            for group in dict.fromkeys(name.split(".")[0] for name in names):
                columns = torch.tensor([name.startswith(f"{group}.") for name in names], device=objects.device)
                losses = [whole - self._measured(task, batches, exchanged(objects, columns, draw))
                          for _ in range(self.repeats)]  # fmt: skip
                rows.append({"metric": f"{self.metric}_lost", "value": sum(losses) / self.repeats, "n": len(objects),
                             "group": group})  # fmt: skip
        return Report(rows)

    def _measured(self, task: Task, batches: list[Mapping[str, Any]], objects: Tensor) -> float:
        metric, start = task.metric(), 0
        for batch in batches:
            end = start + len(batch["objects"])
            batch = {**batch, "objects": objects[start:end]}
            metric.update(task.decode(task(batch), batch), batch)
            start = end
        rows = {row["metric"]: row["value"] for row in metric.compute()}
        if rows.get(self.metric) is None:
            raise MarrowError(f"no value of '{self.metric}'; the task measures {', '.join(rows)}",
                              where="object_importance.metric")  # fmt: skip
        return rows[self.metric]


def exchanged(objects: Tensor, columns: Tensor, draw: torch.Generator) -> Tensor:
    """(N, F) with these columns (F,) bool taken from other rows, all of a row's from the same one."""
    order = torch.randperm(len(objects), generator=draw).to(objects.device)
    return torch.where(columns, objects[order], objects)
