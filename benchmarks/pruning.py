"""What a prune buys: MACs and latency of whole and cut nets, and whether Torch-Pruning by itself cuts them too.

    python benchmarks/pruning.py [--seconds 2] [--ratio 0.3] [--json FILE] [NET ...]

Batch 1, one thread, 224 px, random weights (latency does not depend on them). `gain` is the latency ratio over the MAC
ratio, 1 where time falls as fast as work; its median is taken over the nets above 50 M MACs. Torch-Pruning passes when
its magnitude pruner, told to leave the classifier's outputs alone, gives a net that runs forward and backward.
"""

from __future__ import annotations

import argparse
import json
import statistics
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch_pruning

from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.runtime import open_session
from marrow.core.spec import cut
from marrow.core.timm_backbone import TimmBackbone
from marrow.ship import graph
from marrow.ship.bench import take_turns
from marrow.shrink.prune import MagnitudePrune
from marrow.shrink.prune_trace import UNTRACEABLE
from marrow.tasks.classify import Classify

NETS = (
    "resnet18",
    "resnet50",
    "regnety_004",
    "mobilenetv3_large_100",
    "efficientnet_b0",
    "convnext_atto",
    "densenet121",
    "ghostnet_100",
    "hrnet_w18_small",
    "vit_tiny_patch16_224",
    "deit_small_patch16_224",
    "swin_tiny_patch4_window7_224",
)
SIZE, LARGE = 224, 50e6


def torch_pruning_alone(task: Classify, ratio: float) -> str:
    """ "passes", or the kind of error it ends with."""
    task, image = deepcopy(task), torch.rand(1, 3, SIZE, SIZE)
    try:
        pruner = torch_pruning.pruner.MagnitudePruner(
            task, {"batch": {"image": image}}, torch_pruning.importance.GroupMagnitudeImportance(), pruning_ratio=ratio,
            round_to=16, ignored_layers=[task.head], output_transform=lambda out: out["logits"],
        )  # fmt: skip
        pruner.step()
        task({"image": image})["logits"].sum().backward()
    except UNTRACEABLE as error:
        return type(error).__name__
    return "passes"


def milliseconds(tasks: list[Classify], seconds: float) -> dict[str, list[float]]:
    """Medians of the tasks in eager torch and in ONNX Runtime, all in turns."""
    image = torch.rand(1, 3, SIZE, SIZE)
    with TemporaryDirectory() as folder, torch.inference_mode():
        runs = [lambda t=task: t({"image": image}) for task in tasks]
        for i, task in enumerate(tasks):
            file = Path(folder) / f"{i}.onnx"
            graph.write(graph.trace(graph.for_export(task)), file, task, precision="fp32", licence="")
            runs.append(lambda s=open_session(file, 1): s.run(None, {"image": image.numpy()}))
        medians = [statistics.median(times) for times in take_turns(runs, seconds=seconds)]
    return {"torch": medians[: len(tasks)], "onnxruntime": medians[len(tasks) :]}


def row(name: str, ratio: float, seconds: float) -> dict:
    torch.manual_seed(0)
    whole = Classify(TimmBackbone.create(name, img_size=SIZE), classes=10).eval()
    found = {"net": name, "torch-pruning": torch_pruning_alone(whole, ratio)}
    try:
        planned = MagnitudePrune(ratio=ratio).plan({"model": whole}, None, None)
    except MarrowError as refusal:
        return found | {"marrow": refusal.message}
    small = cut([deepcopy(whole)], planned).eval()
    before, after = cost(whole), cost(small)
    found |= {"marrow": "passes", "macs": before.macs, "macs ratio": after.macs / before.macs,
              "params ratio": after.params / before.params}  # fmt: skip
    for runtime, (slow, fast) in milliseconds([whole, small], seconds).items():
        found |= {f"{runtime} ms": [slow, fast], f"{runtime} gain": (slow / fast) / (before.macs / after.macs)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("nets", nargs="*", default=NETS, metavar="NET")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of measuring for each net and runtime")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'net':32s} {'MACs':>6s} {'params':>6s} {'torch':>6s} {'onnx':>6s} {'gain':>5s}  Torch-Pruning alone")
    rows = []
    for name in options.nets:
        rows.append(found := row(name, options.ratio, options.seconds))
        if found["marrow"] != "passes":
            print(f"{name:32s} {found['marrow']}; {found['torch-pruning']}")
            continue
        (a, b), (c, d) = found["torch ms"], found["onnxruntime ms"]
        print(f"{name:32s} {found['macs ratio']:6.2f} {found['params ratio']:6.2f} {b / a:6.2f} {d / c:6.2f} "
              f"{found['onnxruntime gain']:5.2f}  {found['torch-pruning']}", flush=True)  # fmt: skip
    large = [r["onnxruntime gain"] for r in rows if r.get("macs", 0) > LARGE]
    summary = {"nets": rows, "median onnxruntime gain": statistics.median(large) if large else None,
               "versions": {p: version(p) for p in ("torch", "timm", "torch-pruning", "onnxruntime")}}  # fmt: skip
    print(f"median gain over {len(large)} nets above 50 M MACs: {summary['median onnxruntime gain']}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
