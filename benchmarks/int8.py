"""int8 files against fp32 and against other quantizers: latency, bytes, answers kept: `python benchmarks/int8.py [--out FILE]`.

Batch 1, one thread. ResNet-18 and ViT-Ti at 224 px learn the photos of PACS in $MARROW_DATA for a few steps, enough for their
inner statistics but not for their top-1 to mean much; where there are none they learn the embedded digits, and the result says
so. resnet10t is trained until it knows the digits. All quantizers see the same calibration images, all are tested on the same
others. In this process: ONNX Runtime with the fp32 file, marrow's, and those of its own quantizer, as it comes and told its
best options. In environments of their own, each beside ONNX Runtime with the fp32 file again: OpenVINO with NNCF, torchao.
`faster` is to that fp32 file in the same process.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Iterator

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from peer.int8_turns import in_onnxruntime, measured
from peers import ask, environment, same_torch

from marrow.core.engine import Engine
from marrow.core.loader import Data
from marrow.core.runtime import unit
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.versions import versions
from marrow.data import open_source
from marrow.ship import cpu, graph, int8
from marrow.ship.parity import spread
from marrow.tasks.classify import Classify
from marrow.teach.supervised import Supervised

PHOTOS = (
    Path(os.environ.get("MARROW_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
    / "pacs"
    / "photo.parquet"
)
NETS: dict[str, dict[str, Any]] = {
    "resnet18": {"img_size": 224},
    "vit_tiny_patch16_224": {"img_size": 224},
    "resnet10t": {"img_size": 32, "channels": (48, 96, 192, 384), "stem_width": 24},
}
STEPS = {"resnet18": 30, "vit_tiny_patch16_224": 30, "resnet10t": 250}
CALIBRATION, TEST = 64, 128
RUNTIME = f"onnxruntime=={onnxruntime.__version__}"
PEERS = {
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0", RUNTIME),
    "torchao": ("torchao==0.18.0", "numpy", RUNTIME, same_torch()),
}
OWN, TOLD = "onnxruntime as it comes", "onnxruntime told its best options"
FAST, LEAN, NO_SLOWER = 2.5, 0.27, 1.05  # the targets
WITHOUT = ("This processor shows no int8 dot-product instructions (VNNI, dot product, i8mm): int8 is slow on it, and the "
           "targets on time are not judged.")  # fmt: skip


def has_instructions() -> bool:
    return any("vnni" in flag or flag in ("amx_int8", "asimddp", "i8mm") for flag in cpu.flags())


def pictures(name: str) -> dict[str, Any]:
    return {"images": str(PHOTOS)} if NETS[name]["img_size"] == 224 and PHOTOS.is_file() else {"images": "digits"}


def trained(name: str, share: float) -> Classify:
    source = open_source({**pictures(name), "split": "train"}, "data")
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create(name, **NETS[name]), classes=len(source.classes or ()))
    steps = max(1, round(share * STEPS[name]))
    settings = Settings(steps=steps, batch=16, optim={"main": Optim("adamw", 1e-3)})
    Engine(settings, device="cpu").train(Supervised(task), Data({"train": source}))
    return task.eval()


def images(task: Classify, name: str, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, H, W) as an exported graph takes them, and their labels."""
    source = spread(open_source({**pictures(name), "split": split}, "data"), count)
    batches = list(Engine(device="cpu").batches(source, task.input, 16))
    return np.concatenate([unit(b["image"]) for b in batches]), torch.cat([b["label"] for b in batches]).numpy()


def files(task: Classify, folder: Path, calibration: np.ndarray) -> Iterator[tuple[str, Path]]:
    """(quantizer, ONNX file) with the fp32 file first; the net as torch exports it lies beside them for torchao."""
    fp32, ours, prepared = (folder / f"{name}.onnx" for name in ("fp32", "marrow", "prepared"))
    graph.write(graph.trace(task), fp32, task, precision="fp32", licence="")
    yield "none", fp32
    quantized = int8.quantize(fp32, folder, map(torch.from_numpy, np.array_split(calibration, 8)),
                              reduce_range=cpu.saturates_here())  # fmt: skip
    graph.write(quantized, ours, task, precision="int8", licence="")
    yield "marrow", ours
    quant_pre_process(str(fp32), str(prepared), skip_symbolic_shape=True)
    told = {"per_channel": True, "activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8,
            "reduce_range": cpu.saturates_here(), "extra_options": {"MatMulConstBOnly": True}}  # fmt: skip
    for quantizer, options in ((OWN, {}), (TOLD, told)):
        file = folder / f"{quantizer}.onnx"
        quantize_static(str(prepared), str(file), Reader(calibration), **options)
        yield quantizer, file
    with torch.no_grad():
        program = torch.export.export(task.exported().eval(), (torch.from_numpy(calibration[:1]),))
    torch.export.save(program, folder / "fp32.pt2")


class Reader:
    def __init__(self, calibration: np.ndarray):
        self.batches = iter(np.array_split(calibration, 8))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"image": batch}


def compare(
    name: str, seconds: float, share: float, peers: dict[str, Path]
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """One row a way, and the peers' versions. `bytes` and `share` are of the file, of a state dict where there is none."""
    task = trained(name, share)
    (calibration, _), (test, labels) = images(task, name, "train", CALIBRATION), images(task, name, "test", TEST)
    found, known = [], {}
    with TemporaryDirectory() as place:
        folder = Path(place)
        np.save(folder / "calibration.npy", calibration)
        np.save(folder / "test.npy", test)
        ways = [(quantizer, "onnxruntime", file.stat().st_size, in_onnxruntime(file))
                for quantizer, file in files(task, folder, calibration)]  # fmt: skip
        found += judged(measured(ways, folder, seconds), folder, labels)
        for peer, python in peers.items():
            script = Path(__file__).parent / "peer" / f"{peer}_int8.py"
            if answer := ask(python, script, place, str(seconds)):
                found += [row for row in judged(answer["rows"], folder, labels) if row["runtime"] != "onnxruntime"]
                known |= answer["versions"]
                if left_out := answer.get("left_out"):
                    print(f"{peer}: {left_out}", flush=True)
    pixels = NETS[name]["img_size"]
    return [{"net": f"{name}, {pixels} px", **row} for row in found], known


def judged(rows: list[dict[str, Any]], folder: Path, labels: np.ndarray) -> list[dict[str, Any]]:
    """The rows of one process with their answers held against those of its first, the fp32 file in ONNX Runtime."""
    logits = [np.load(folder / row.pop("answers")) for row in rows]
    for row, got in zip(rows, logits):
        noise = float(np.square(got - logits[0]).sum())
        row |= {"share": round(row["bytes"] / rows[0]["bytes"], 4), "top1": float((got.argmax(1) == labels).mean()),
                "agreement": float((got.argmax(1) == logits[0].argmax(1)).mean()),
                "sqnr_db": round(float(10 * np.log10(np.square(logits[0]).sum() / noise)), 1) if noise else None}  # fmt: skip
    return rows


def targets(rows: list[dict[str, Any]], fast_here: bool) -> list[dict[str, Any]]:
    """The targets beside what was measured; times are not judged where the processor is slow at int8."""
    found = []
    for net in dict.fromkeys(row["net"] for row in rows):
        of = {(row["quantizer"], row["runtime"]): row for row in rows if row["net"] == net}
        ours, told = of["marrow", "onnxruntime"], of[TOLD, "onnxruntime"]
        best = min(told["median"], of[OWN, "onnxruntime"]["median"])
        asked = [("times slower than ONNX Runtime's quantizer, at most", ours["median"] / best, NO_SLOWER, fast_here),
                 ("of the bytes, at most", ours["share"], LEAN, True),
                 ("lost of top-1 beyond what ONNX Runtime's quantizer loses, at most", told["top1"] - ours["top1"], 0.0, True)]  # fmt: skip
        if net.startswith("resnet18"):
            asked.append(("of fp32's time, at most", 1 / ours["faster"], 1 / FAST, fast_here))
        if peer := of.get(("nncf", "openvino")):
            in_openvino = of["marrow", "openvino"]
            asked.append(("times slower in OpenVINO than NNCF's, at most", peer["faster"] / in_openvino["faster"],
                          NO_SLOWER, fast_here))  # fmt: skip
            asked.append(
                ("lost of top-1 beyond what NNCF loses, at most", peer["top1"] - in_openvino["top1"], 0.0, True)
            )
        found += [{"net": net, "target": f"{what} {most:g}", "measured": round(value, 4),
                   "met": value <= most if judge else None} for what, value, most, judge in asked]  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring each file")
    parser.add_argument("--share", type=float, default=1.0, help="of the training steps, to see that all runs")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=NETS)
    parser.add_argument("--out", type=Path, help="also write the rows as JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.ERROR)  # the runtime's quantizer warns about every LayerNorm
    print("processor:", " ".join(cpu.flags()) or "flags unknown")
    if not has_instructions():
        print(WITHOUT)
    if not PHOTOS.is_file():
        print("No pacs/photo.parquet in $MARROW_DATA: the nets at 224 px learn the digits, scaled up.")
    peers = {name: python for name, wanted in PEERS.items() if (python := environment(name, *wanted))}
    before, rows, known = os.getloadavg()[0], [], {}
    for name in given.nets:
        found, theirs = compare(name, given.seconds, given.share, peers)
        rows, known = rows + found, known | theirs
        for row in found:
            sqnr = "" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
            print(f"{row['net']:30}{row['runtime']:16}{row['quantizer']:36}{row['median']:9.3f} ms {row['faster']:6.2f}x "
                  f"{row['share']:7.4f} of the bytes  agrees {row['agreement']:.3f}  top-1 {row['top1']:.3f}  {sqnr}",
                  flush=True)  # fmt: skip
    judged_by = targets(rows, has_instructions())
    for row in judged_by:
        met = {True: "met", False: "missed", None: "not judged on this processor"}[row["met"]]
        print(f"{row['net']:30}{row['measured']:8.4f} {row['target']}: {met}")
    if given.out:
        found = {"date": date.today().isoformat(), "rows": rows, "targets": judged_by, "cpu": " ".join(cpu.flags()),
                 "int8 instructions": has_instructions(), "images": {name: Path(pictures(name)["images"]).stem for name in given.nets},
                 "steps": {name: round(given.share * STEPS[name]) for name in given.nets}, "threads": 1, "cores": os.cpu_count(),
                 "load": {"before": round(before, 2), "after": round(os.getloadavg()[0], 2)},
                 "machine": platform.machine(), "versions": versions() | {k: v for k, v in known.items() if k != "torch"}}  # fmt: skip
        given.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
