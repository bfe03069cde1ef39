"""An fp32 ONNX file of a task, checked against the task on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..core.contracts import Exporter, Task
from ..core.errors import ParityError
from ..core.runtime import FILE, Runner
from . import graph
from .parity import compare, spread

ALLOWED = 1e-4  # of the largest output, or of 1 where all are smaller
BATCHES = (1, 8)


class Onnx(Exporter):
    """`model.onnx`: image (B, 3, H, W) float in [0, 1] -> the task's outputs; the normalisation is in the graph.

    parity_images: how many images of the stream `parity` the check takes, at batch sizes 1 and 8. licence: what is known
    about the terms of the weights, noted in the file. Raises `ParityError` with the figures.
    """

    needs = {"model": set()}
    streams = ("parity",)

    def __init__(self, *, licence: str = "", parity_images: int = 64):
        self.licence, self.parity_images = licence, parity_images

    def export(self, models: dict[str, Task], data: Any, engine: Any, folder: Path) -> dict:
        task = graph.for_export(models["model"])
        file = Path(folder) / FILE
        meta = graph.write(graph.trace(task), file, task, precision="fp32", licence=self.licence)
        runner = Runner(folder, {"runtime": meta, "input": meta["input"], "labels": task.labels})
        sample = spread(data.streams["parity"], self.parity_images)
        for batch in BATCHES:
            meta["parity"] = found = compare(task, runner, engine.batches(sample, task.input, batch))
            allowed = ALLOWED * max(1.0, found["largest"])
            if not found["max_abs"] <= allowed:
                raise ParityError(f"the exported file disagrees with the model: max abs diff {found['max_abs']:.3g}, "
                                  f"allowed {allowed:.3g}, on {found['n']} real images at batch {batch}",
                                  where=str(file))  # fmt: skip
        return dict(meta)
