"""Latency on this machine: things measured side by side in one sitting, turn by turn."""

from __future__ import annotations

import statistics
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Callable, Iterator, NamedTuple, Sequence

import numpy as np
import torch
from torch import Tensor

from ..core.artifact import Artifact
from ..core.artifact_check import KINDS
from ..core.errors import MarrowError
from ..core.runtime import Runner, unit
from .cpu import flags

LEAST_RUNS = 50
WARM_UP = 5  # runs before the first round; one more starts every turn, since the others emptied the caches
SLOWER = 1.05  # an int8 file that takes longer than this times fp32 has missed its purpose


class Entrant(NamedTuple):
    """One thing in one runtime."""

    artifact: Artifact
    runtime: str
    version: str
    precision: str
    run: Callable[[], Any]


def take_turns(runs: Sequence[Callable[[], Any]], *, rounds: int = 5, seconds: float = 1.0) -> list[list[float]]:
    """The milliseconds that every call of each took: at least 50 calls and `seconds` of each, in turns.

    In every round each has a turn, so that whatever else the machine does hits all alike.
    """
    for run in runs:
        for _ in range(WARM_UP):
            run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, taken in zip(runs, times):
            run()
            least, end = len(taken) - (-LEAST_RUNS // rounds), perf_counter() + seconds / rounds
            while len(taken) < least or perf_counter() < end:
                start = perf_counter()
                run()
                taken.append(1e3 * (perf_counter() - start))
    return times


def bench(things: Sequence[Artifact | Path | str], *, threads: int = 1, batch: int = 1, rounds: int = 5,
          seconds: float = 1.0) -> list[dict]:  # fmt: skip
    """One row a thing, in order: models in eager torch fp32, files in ONNX Runtime; then, with OpenVINO installed, a
    second row a file.

    `median` and `p90` are milliseconds; `over_fp32` is the time over that of the same model's fp32 file in the same
    runtime, None without one among the things; `note` says when that is more than 1.05.
    """
    if not things:
        raise MarrowError("nothing to measure", where="bench", hint="Give one artifact folder or more.")
    artifacts = [t if isinstance(t, Artifact) else Artifact.open(t) for t in things]
    with _torch_threads(threads), torch.inference_mode():
        entrants = [_entrant(artifact, threads, batch) for artifact in artifacts]
        if find_spec("openvino"):
            entrants += [_in_openvino(a, threads, batch) for a in artifacts if a.kind == "runtime"]
        times = take_turns([e.run for e in entrants], rounds=rounds, seconds=seconds)
    medians = [statistics.median(taken) for taken in times]
    rows = []
    for entrant, taken in zip(entrants, times):
        fp32 = next((m for e, m in zip(entrants, medians) if _is_fp32_of(e, entrant)), None)
        rows.append(_row(entrant, taken, fp32) | {"batch": batch, "threads": threads})
    return rows


def _entrant(artifact: Artifact, threads: int, batch: int) -> Entrant:
    if artifact.kind not in ("backbone", "task", "runtime"):
        raise MarrowError(f"an artifact of kind {artifact.kind} does not run; a backbone, task or runtime does",
                          where=str(artifact.path))  # fmt: skip
    images = _images(artifact, batch)
    if artifact.kind == "runtime":
        import onnxruntime

        runner = Runner(artifact.path, artifact.meta, threads=threads)
        session, given = runner.session, _given(runner, images)
        run = partial(session.run, None, given)
        return Entrant(artifact, runner.runtime, onnxruntime.__version__, runner.precision, run)
    model = artifact.load()
    batch_of = {**model.example(batch), "image": images} if artifact.kind == "task" else images
    return Entrant(artifact, "torch", torch.__version__, "fp32", partial(model, batch_of))


def _in_openvino(artifact: Artifact, threads: int, batch: int) -> Entrant:
    import openvino

    runner = Runner(artifact.path, artifact.meta)
    # Left alone, OpenVINO computes an fp32 file in bf16 where the processor can.
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = openvino.Core().compile_model(str(runner.file), "CPU", settings).create_infer_request()
    given = _given(runner, _images(artifact, batch))
    return Entrant(artifact, "openvino", version("openvino"), runner.precision, partial(request.infer, given))


def _images(artifact: Artifact, batch: int) -> Tensor:
    size = (batch, artifact.meta["input"]["channels"], *artifact.meta["input"]["size"])
    return torch.rand(size, generator=torch.Generator().manual_seed(0))


def _given(runner: Runner, images: Tensor) -> dict[str, np.ndarray]:
    """Images, and zeros for what the file reads beside them."""
    shapes = {i.name: i.shape[1:] for i in runner.session.get_inputs()}
    return {name: unit(images) if name == "image" else np.zeros((len(images), *shapes[name]), np.float32)
            for name in runner.inputs}  # fmt: skip


def _is_fp32_of(other: Entrant, entrant: Entrant) -> bool:
    """Whether the other is the fp32 file of the same model in the same runtime."""
    same = set(other.artifact.meta["parents"]) & set(entrant.artifact.meta["parents"])
    return other.precision == "fp32" != entrant.precision and other.runtime == entrant.runtime and bool(same)


def _row(entrant: Entrant, milliseconds: list[float], fp32: float | None) -> dict:
    median = statistics.median(milliseconds)
    ratio = median / fp32 if fp32 else None
    return {
        "name": entrant.artifact.path.name,
        "runtime": entrant.runtime,
        "version": entrant.version,
        "precision": entrant.precision,
        "median": median,
        "p90": statistics.quantiles(milliseconds, n=10)[-1],
        "runs": len(milliseconds),
        "over_fp32": ratio,
        "note": f"takes {ratio:.2f} times as long as fp32" if ratio and ratio > SLOWER else "",
        "bytes": entrant.artifact.meta["files"][KINDS[entrant.artifact.kind]][0],
        "cpu": " ".join(flags()),
    }


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
