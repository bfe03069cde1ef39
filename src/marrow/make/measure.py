"""The rows of a report: every model of a run on the same test images, every file in its real runtime."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Mapping

import torch
from PIL import Image
from torch import Tensor

from ..core.artifact import Artifact
from ..core.cost import Cost, cost
from ..core.engine import Engine
from ..core.source import Source
from ..run import export
from ..ship.bench import bench
from ..ship.interval import wilson

THUMBNAILS = 12


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model on the test images: its rows, its answers (N,), the labels (N,), and the confusion matrix (C, C)."""

    rows: list[dict]
    answers: Tensor
    labels: Tensor
    confusion: Tensor


def answers(thing: Any, source: Source, engine: Engine) -> Measured:
    """Run a task or a Runner over a source, once."""
    metric, said, labels = thing.metric(), [], []
    for batch in engine.batches(source, thing.input):
        with torch.inference_mode():
            decoded = thing.decode(thing(batch), batch)
        metric.update(decoded, batch)
        said.append(decoded["label"].cpu())
        labels.append(batch["label"].cpu())
    return Measured(metric.compute(), torch.cat(said), torch.cat(labels), metric.confusion)


def row(name: str, artifact: Artifact, measured: Measured, network: Cost) -> dict[str, Any]:
    """A report's row but for the latency."""
    first, runtime = measured.rows[0], artifact.meta["runtime"]
    kind = f"ONNX file, {runtime['precision']}" if runtime else net(artifact.meta["spec"])
    right = int((measured.answers == measured.labels).sum())
    file = "model.onnx" if artifact.kind == "runtime" else "weights.safetensors"
    return {
        "name": name,
        "kind": kind,
        "metric": first["metric"],
        "value": first["value"],
        "n": first["n"],
        "split": "test",
        "ci95": list(wilson(right, first["n"])),
        "more": {r["metric"]: r["value"] for r in measured.rows[1:]},
        "params": network.params,
        "macs": network.macs,
        "bytes": (artifact.path / file).stat().st_size,
        "parity": agreement(runtime["parity"]) if runtime else None,
    }


def net(spec: Mapping[str, Any]) -> str:
    """The name of the network at the bottom of a spec tree."""
    if "source" in spec:
        return str(spec["source"]).partition(":")[2]
    return net(next(v for v in (spec.get("backbone"), *spec.get("of", [])) if v))


def agreement(parity: Mapping[str, Any]) -> str:
    """How an exported file compares with its model, for a report."""
    return (f"{parity['agreement']:.1%} of {parity['n']} validation images get the same answer, "
            f"outputs differ by {parity['max_abs']:.2g} at most")  # fmt: skip


def measure(
    artifacts: Mapping[str, Artifact], source: Source, check: Mapping[str, Any], device: str
) -> tuple[list[dict], dict[str, Measured]]:
    """Rows for teacher, baseline, student, pruned (torch) and fp32, int8 (exported files), and what each model answered.

    check: a source mapping for the parity check of the files that are exported only to time the torch models.
    """
    engine = Engine(device=device)
    measured, rows, networks = {}, [], {}
    parent = "pruned" if "pruned" in artifacts else "student"  # the model behind the files that are shipped
    for name, artifact in artifacts.items():
        thing = artifact.load()
        measured[name] = answers(thing, source, engine)
        networks[name] = cost(thing) if artifact.kind != "runtime" else networks[parent]
        rows.append(row(name, artifact, measured[name], networks[name]))
    with TemporaryDirectory() as folder:
        timed = {name: a if a.kind == "runtime" else export(a, "onnx", Path(folder) / name, data=check)
                 for name, a in artifacts.items() if name != parent}  # fmt: skip
        times = dict(zip(timed, bench(list(timed.values()), threads=1)))
    times[parent] = times["fp32"]  # its file is the fp32 row
    for r in rows:
        r["latency_ms"] = times[r["name"]]
    return rows, measured


def thumbnails(big: Measured, small: Measured, source: Source, labels: list[str]) -> list[dict[str, Any]]:
    """Test images that the big model gets right and the small one wrong."""
    which = ((big.answers == big.labels) & (small.answers != small.labels)).nonzero().flatten()[:THUMBNAILS]
    return [{"png": _png(source[i]["image"]), "label": labels[big.labels[i]], "teacher": labels[big.answers[i]],
             "student": labels[small.answers[i]]} for i in which.tolist()]  # fmt: skip


def _png(image: Tensor) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((112, 112))
    picture.save(file, "png")
    return file.getvalue()
