"""marrow's own networks beside timm's of the same accuracy: latency and throughput.

    python benchmarks/backbones.py [--seconds 0.6] [--json FILE] [NET ...]

224 px, one thread, random weights (speed does not depend on them), in eager PyTorch and in ONNX Runtime as fp32 and int8.
Both nets of a pair are measured in one sitting, turn by turn; a time is the median over the calls, and `over peer` the
median over the rounds of our time over the peer's. Published top-1 are those of the papers. For int8 the decibels say how
much signal the file keeps over its quantization noise, on a random image.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, Callable, NamedTuple

import numpy as np
import torch

from marrow.core.cost import cost
from marrow.core.runtime import open_session
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.versions import versions
from marrow.ship import cpu, graph, int8
from marrow.tasks.classify import Classify

SIZE, ROUNDS, BATCHES = 224, 3, (1, 16)
CALIBRATION = 8
KEEPS_DB = 20.0  # below it `ship: int8` refuses a file


class Pair(NamedTuple):
    """A net of ours, timm's nearest, and the ImageNet top-1 that was published of each."""

    ours: str
    top1: float | None
    peer: str
    peer_top1: float


# A composite says what its single net says until it is trained on; no classifier of one was published. MobileViT's and
# EdgeNeXt's numbers are for 256 px.
PAIRS = (
    Pair("eca_resnet18", 70.8, "seresnet18", 70.6),
    Pair("eca_resnet50", 77.5, "seresnet50", 76.7),
    Pair("eca_mobilenetv2_100", 72.6, "mobilenetv2_100", 72.0),
    Pair("pvt_tiny", 75.1, "deit_tiny_distilled_patch16_224", 74.5),
    Pair("pvt_small", 79.8, "deit_small_patch16_224", 79.9),
    Pair("emo_1m", 71.5, "mobilevit_xxs", 69.0),
    Pair("emo_2m", 75.1, "mobilevit_xs", 74.8),
    Pair("emo_5m", 78.4, "mobilevit_s", 78.4),
    Pair("emo_6m", 79.0, "edgenext_small", 79.4),
    Pair("vit_resnas_tiny", 80.8, "deit_small_distilled_patch16_224", 81.2),
    Pair("cb_resnet50", None, "resnet50", 76.1),
    Pair("cb_swin_tiny_patch4_window7_224", None, "swin_tiny_patch4_window7_224", 81.3),
)

Runs = dict[tuple[str, int], Callable[[], Any]]  # (runtime, batch)


def prepared(name: str, folder: Path) -> tuple[dict[str, Any], Runs]:
    """What is known of a net before it is timed, and how it is called."""
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create(name, img_size=SIZE), classes=1000).eval()
    images = torch.rand(max(BATCHES), 3, SIZE, SIZE)
    fp32, small = (folder / f"{name}.{precision}.onnx" for precision in ("fp32", "int8"))
    graph.write(graph.trace(task), fp32, task, precision="fp32", licence="")
    quantized = int8.quantize(
        fp32, folder, torch.rand(CALIBRATION, 3, SIZE, SIZE).split(4), reduce_range=cpu.saturates_here()
    )
    graph.write(quantized, small, task, precision="int8", licence="")
    sessions = {"fp32": open_session(fp32, 1), "int8": open_session(small, 1)}
    runs: Runs = {}
    for batch in BATCHES:
        given = images[:batch].clone()
        runs["torch", batch] = lambda given=given: task({"image": given})["logits"]
        for precision, session in sessions.items():
            runs[precision, batch] = lambda s=session, g=given.numpy(): s.run(None, {"image": g})[0]
    whole, exported, cut = (runs[runtime, BATCHES[0]]() for runtime in ("torch", "fp32", "int8"))
    spent = cost(task)
    return {
        "net": name, "params": spent.params, "macs": spent.macs, "bytes": fp32.stat().st_size,
        "int8 bytes": small.stat().st_size, "int8 dB": decibels(exported, cut),
        "export off by": float(np.abs(whole.numpy() - exported).max() / np.abs(exported).max()),
    }, runs  # fmt: skip


def decibels(wanted: np.ndarray, got: np.ndarray) -> float | None:
    noise = float(np.square(got - wanted).sum())
    return round(float(10 * np.log10(np.square(wanted).sum() / noise)), 1) if noise else None


def in_turns(runs: list[Callable[[], Any]], seconds: float) -> list[list[list[float]]]:
    """For each run and round the milliseconds of its calls: one at least, and as many as its share of the time holds."""
    for run in runs:
        run()
    times: list[list[list[float]]] = [[] for _ in runs]
    for _ in range(ROUNDS):
        for run, taken in zip(runs, times):
            taken.append([])
            end = perf_counter() + seconds / ROUNDS
            while not taken[-1] or perf_counter() < end:
                start = perf_counter()
                run()
                taken[-1].append(1e3 * (perf_counter() - start))
    return times


def compare(pair: Pair, seconds: float) -> list[dict[str, Any]]:
    """A row for our net and one for its peer."""
    with TemporaryDirectory() as folder, torch.inference_mode():
        nets = [prepared(name, Path(folder)) for name in (pair.ours, pair.peer)]
        rows = [known | {"top1": top1} for (known, _), top1 in zip(nets, (pair.top1, pair.peer_top1))]
        for key in nets[0][1]:
            runtime, batch = key
            times = in_turns([runs[key] for _, runs in nets], seconds)
            medians = [[statistics.median(one) for one in taken] for taken in times]
            for row, taken in zip(rows, times):
                typical = statistics.median([t for one in taken for t in one])
                row[f"{runtime} ms" if batch == 1 else f"{runtime} images/s"] = (
                    round(typical, 3) if batch == 1 else round(1e3 * batch / typical, 1)
                )
            rows[0][f"{runtime} over peer, batch {batch}"] = round(
                statistics.median(ours / theirs for ours, theirs in zip(*medians)), 3
            )
    rows[0]["peer"] = pair.peer
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ours = [pair.ours for pair in PAIRS]
    parser.add_argument("nets", nargs="*", default=ours, metavar="NET", help=f"of {', '.join(ours)}")
    parser.add_argument("--seconds", type=float, default=0.6, help="of measuring each net, runtime and batch")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := sorted(set(options.nets) - set(ours)):
        parser.error(f"no pair for {unknown[0]}; there are {', '.join(ours)}")
    torch.set_num_threads(1)
    before, rows = os.getloadavg()[0], []
    print(", ".join(f"{k} {v}" for k, v in versions().items()), f"; load {before:.2f}; {' '.join(cpu.flags())}")
    print(f"{'net':34s}{'top-1':>6s}{'M params':>9s}{'G MACs':>8s}{'torch ms':>9s}{'fp32 ms':>9s}{'int8 ms':>9s}"
          f"{'images/s at batch 16':>26s}{'int8 dB':>9s}")  # fmt: skip
    for pair in (p for p in PAIRS if p.ours in options.nets):
        rows += (found := compare(pair, options.seconds))
        for row in found:
            rates = "".join(f"{row[f'{runtime} images/s']:8.1f}" for runtime in ("torch", "fp32", "int8"))
            times = "".join(f"{row[f'{runtime} ms']:9.2f}" for runtime in ("torch", "fp32", "int8"))
            low = "" if row["int8 dB"] is None or row["int8 dB"] >= KEEPS_DB else ", too few to ship"
            print(f"{row['net']:34s}{row['top1'] or '':>6}{row['params'] / 1e6:9.2f}{row['macs'] / 1e9:8.2f}{times}"
                  f"  {rates}{row['int8 dB'] or '':>9}{low}", flush=True)  # fmt: skip
    if options.json:
        found = {"date": date.today().isoformat(), "rows": rows, "cpu": " ".join(cpu.flags()), "threads": 1,
                 "cores": os.cpu_count(), "rounds": ROUNDS, "machine": platform.machine(),
                 "load": {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)},
                 "versions": versions()}  # fmt: skip
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
