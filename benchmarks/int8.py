"""int8 files against fp32 and against other quantizers: latency, bytes, accuracy, side by side in one process.

    python benchmarks/int8.py [--seconds 5] [--json FILE]

Batch 1, one thread. resnet10t is trained until it knows the embedded digits; the nets at 224 px get a few steps, enough for
their inner statistics but not for their top-1 to mean much. All quantizers see the same calibration images. Peers: ONNX Runtime's `quantize_static` as it comes, the same told to use uint8
activations and int8 weights per channel, and NNCF on OpenVINO where both are installed (`pip install "marrow[openvino]"`).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np
import torch

from marrow.core.engine import Engine
from marrow.core.loader import Data
from marrow.core.runtime import open_session, unit
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.ship import cpu, graph, int8
from marrow.ship.bench import take_turns
from marrow.ship.parity import spread
from marrow.tasks.classify import Classify
from marrow.teach.supervised import Supervised

NETS = {
    "resnet18": {"img_size": 224},
    "resnet10t": {"img_size": 32, "channels": (48, 96, 192, 384), "stem_width": 24},
    "vit_tiny_patch16_224": {"img_size": 224},
}
STEPS = {"resnet18": 10, "resnet10t": 250, "vit_tiny_patch16_224": 10}
CALIBRATION, TEST = 128, 128


class Way(NamedTuple):
    """One file or model in one runtime."""

    quantizer: str
    runtime: str
    bytes: int
    answer: Callable[[np.ndarray], np.ndarray]


def trained(name: str) -> Classify:
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create(name, **NETS[name]), classes=10)
    settings = Settings(steps=STEPS[name], batch=16, optim={"main": Optim("adamw", 1e-3)})
    train = open_source({"images": "digits", "split": "train"}, "data")
    Engine(settings, device="cpu").train(Supervised(task), Data({"train": train}))
    return task.eval()


def images(task: Classify, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, H, W) as an exported graph takes them, and their labels."""
    source = spread(open_source({"images": "digits", "split": split}, "data"), count)
    batches = list(Engine(device="cpu").batches(source, task.input, 16))
    return np.concatenate([unit(b["image"]) for b in batches]), torch.cat([b["label"] for b in batches]).numpy()


def ways(task: Classify, folder: Path, calibration: np.ndarray) -> Iterator[Way]:
    """The fp32 file, ours and the peers', each in every runtime that is installed."""
    fp32, ours = folder / "fp32.onnx", folder / "marrow.onnx"
    graph.write(graph.trace(task), fp32, task, precision="fp32", licence="")
    quantized = int8.quantize(fp32, folder, map(torch.from_numpy, np.array_split(calibration, 8)),
                              reduce_range=cpu.saturates_here())  # fmt: skip
    graph.write(quantized, ours, task, precision="int8", licence="")
    for quantizer, file in (("none", fp32), ("marrow", ours), *onnxruntime_files(fp32, folder, calibration)):
        session = open_session(file, 1)
        yield Way(quantizer, "onnxruntime", file.stat().st_size, lambda x, s=session: s.run(None, {"image": x})[0])
    if find_spec("openvino") and find_spec("nncf"):
        yield from openvino_ways(fp32, ours, folder, calibration)


def onnxruntime_files(fp32: Path, folder: Path, calibration: np.ndarray) -> Iterator[tuple[str, Path]]:
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = folder / "prepared.onnx"
    quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
    told = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    for name, options in (("onnxruntime as it comes", {}), ("onnxruntime, uint8 x int8 per channel", told)):
        file = folder / f"{name}.onnx"
        quantize_static(str(prepared), str(file), Reader(calibration), **options)
        yield name, file


def openvino_ways(fp32: Path, ours: Path, folder: Path, calibration: np.ndarray) -> Iterator[Way]:
    import nncf
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    peer = nncf.quantize(
        core.read_model(fp32), nncf.Dataset([x[None] for x in calibration]), subset_size=len(calibration)
    )
    openvino.save_model(peer, folder / "nncf.xml")
    for quantizer, model, stored in (("none", core.read_model(fp32), fp32), ("marrow", core.read_model(ours), ours),
                                     ("nncf", peer, folder / "nncf.bin")):  # fmt: skip
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        yield Way(quantizer, "openvino", stored.stat().st_size, lambda x, r=request: np.array(r.infer([x])[0]))


class Reader:
    def __init__(self, calibration: np.ndarray):
        self.batches = iter(np.array_split(calibration, 8))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def compare(name: str, seconds: float) -> list[dict[str, Any]]:
    """One row a way: the ratios are to the fp32 file in ONNX Runtime."""
    task = trained(name)
    (calibration, _), (test, labels) = images(task, "train", CALIBRATION), images(task, "test", TEST)
    with TemporaryDirectory() as folder:
        entered = list(ways(task, Path(folder), calibration))
        times = take_turns([lambda w=w: w.answer(test[:1]) for w in entered], seconds=seconds)
        logits = [np.concatenate([w.answer(x) for x in np.array_split(test, 16)]) for w in entered]
    wanted, base = logits[0], statistics.median(times[0])
    rows = []
    for way, taken, got in zip(entered, times, logits):
        median, noise = statistics.median(taken), np.square(got - wanted).sum()
        rows.append({
            "net": name, "quantizer": way.quantizer, "runtime": f"{way.runtime} {version(way.runtime)}",
            "median": round(median, 3), "p90": round(statistics.quantiles(taken, n=10)[-1], 3), "runs": len(taken),
            "faster": round(base / median, 2), "bytes": way.bytes, "share": round(way.bytes / entered[0].bytes, 4),
            "top1": float((got.argmax(1) == labels).mean()), "agreement": float((got.argmax(1) == wanted.argmax(1)).mean()),
            "sqnr_db": round(float(10 * np.log10(np.square(wanted).sum() / noise)), 1) if noise else None,
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of measuring each file")
    parser.add_argument("--json", type=Path, help="write the rows there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)  # the peers warn about every LayerNorm
    print("processor:", " ".join(cpu.flags()) or "flags unknown")
    if not (find_spec("openvino") and find_spec("nncf")):
        print("OpenVINO and NNCF are not installed: left out")
    rows = []
    for name in NETS:
        for row in compare(name, given.seconds):
            rows.append(row)
            sqnr = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
            print(f"{name:22}{row['runtime']:22}{row['quantizer']:40}{row['median']:9.3f} ms {row['faster']:6.2f}x "
                  f"{row['share']:7.4f} of the bytes  top-1 {row['top1']:.4f}  {sqnr}", flush=True)  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps({"cpu": list(cpu.flags()), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
