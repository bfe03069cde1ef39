"""What a step of each method takes beside the plain supervised step of the same net: `python benchmarks/methods.py [--json FILE]`.

One thread, batches of 16: ResNet-18 at 64 px, ViT-Ti at 96 px, and for `cvrl` ResNet-18 over clips of 4 frames at 32 px; teachers
are nets of the same kind. A step is the method's losses, their gradients, AdamW and what the method does after it. Shares say
where its time goes: into the views of the batch (made before, by other processes in a real training), the teacher or momentum
copy, the trained net, what makes losses of their answers, the way back, and the optimiser. Arms take turns, each round every
arm; figures are medians over the rounds, and a ratio is the median of those within a round. Memory is the peak of what a step
adds to what is there before it, gradients included, from the profiler's record of allocations in a step of its own.
"""

import argparse
import json
import os
import platform
import statistics
from collections import defaultdict
from datetime import date
from pathlib import Path
from time import perf_counter
from typing import Any, Callable

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from marrow.backbones.clips import FramesBackbone
from marrow.core.collate import collate
from marrow.core.contracts import Backbone, Clock, Method
from marrow.core.spec import edited
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.versions import versions
from marrow.core.wrappers import EMA, Frozen
from marrow.tasks.classify import Classify
from marrow.teach.advstyle import AdvStyle
from marrow.teach.cvrl import CVRL
from marrow.teach.hybrid_distillation import HybridDistillation
from marrow.teach.mae import MAE
from marrow.teach.matryoshka import Matryoshka
from marrow.teach.pixcontrast import PixContrast
from marrow.teach.pixpro import PixPro
from marrow.teach.rich_representations import RichRepresentations
from marrow.teach.sepclr import SepCLR
from marrow.teach.ssld import SSLD
from marrow.teach.supervised import Supervised
from marrow.teach.tinymim import TinyMIM

BATCH, CLASSES, STORED = 16, 10, 96
TARGET = 1.15  # of AdvStyle's step over the plain one; it needs no further forward
PARTS = ("views", "teacher", "net", "loss", "backward", "optimiser")


def conv() -> Backbone:
    return TimmBackbone.create("resnet18", img_size=64)


def vit() -> Backbone:
    return TimmBackbone.create("vit_tiny_patch16_224", img_size=96)


def clips() -> Backbone:
    return FramesBackbone(TimmBackbone.create("resnet18", img_size=32), frames=4, stride=1)


def task(net: Callable[[], Backbone]) -> Classify:
    return Classify(net(), classes=CLASSES)


def sure(net: Callable[[], Backbone]) -> Classify:
    """A teacher with opinions: one that tells no class apart is refused."""
    made = task(net)
    with torch.no_grad():
        made.head.weight.mul_(100.0)
    return made


# Name -> (what makes the plain step's net, what makes the method)
ARMS: dict[str, tuple[Callable[[], Backbone], Callable[[], Method]]] = {
    "ssld": (conv, lambda: SSLD(task(conv), sure(conv))),
    "matryoshka": (conv, lambda: Matryoshka(Supervised(task(conv), crop=(0.2, 1.0), flip=True))),
    "rich_representations": (conv, lambda: RichRepresentations(conv(), edited("cat", {}, [task(conv), task(conv)]))),
    "advstyle": (conv, lambda: AdvStyle(task(conv), crop=(0.2, 1.0))),
    "pixpro": (conv, lambda: PixPro(conv())),
    "pixcontrast": (conv, lambda: PixContrast(conv())),
    "sepclr": (conv, lambda: SepCLR(conv(), conv())),
    "tinymim": (vit, lambda: TinyMIM(vit(), vit())),
    "hybrid_distillation": (vit, lambda: HybridDistillation(vit(), vit(), vit())),
    "mae": (vit, lambda: MAE(vit())),
    "cvrl": (clips, lambda: CVRL(clips())),
}


class Arm:
    """A method with its optimiser and a batch; `seconds` gathers, for every step, what each part of it took."""

    def __init__(self, method: Method, name: str):
        self.method, self.name, self.seconds = method.train(), name, defaultdict[str, list[float]](list)
        self.optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-4)
        self.inside, self.count = defaultdict[str, float](float), 0
        copies = [m for m in method.modules() if isinstance(m, EMA)]
        frozen = [m.module for m in method.modules() if isinstance(m, Frozen)]
        for copy in copies:
            self._watch(copy, "forward", "teacher")
        for net in [net for module in frozen for net in outermost(module)]:
            self._watch(net, "features", "teacher")
        hidden = {m for copy in copies for m in copy.modules()}
        for net in outermost(method):
            if net not in hidden:
                self._watch(net, "features", "net")

    def _watch(self, module: nn.Module, call: str, part: str) -> None:
        plain = getattr(module, call)

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:  # some end the pass early
                self.inside[part] += perf_counter() - start

        setattr(module, call, timed)

    def batch(self) -> dict[str, Any]:
        """From raw examples, by the method's own views."""
        if self.name == "clips":  # the plain step over clips, which has no view of its own
            return {"image": torch.randint(0, 256, (BATCH, 4, 3, 32, 32), dtype=torch.uint8), "label": labels()}
        view, found = self.method.views(), {}
        for stream in self.method.streams:
            found[stream] = collate([view(example(stream, i)) for i in range(BATCH)])
        return found if len(found) > 1 else found[self.method.streams[0]]

    def step(self) -> float:
        start = perf_counter()
        batch = self.batch()
        viewed, clock = perf_counter(), Clock(step=self.count, epoch=0, progress=0.0)
        self.inside.clear()
        loss = torch.stack(list(self.method(batch, clock).losses.values())).sum()
        forward = perf_counter()
        loss.backward()
        backward = perf_counter()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.method.after_step(clock)
        end, self.count = perf_counter(), self.count + 1
        teacher, net = self.inside["teacher"], self.inside["net"]
        found = (viewed - start, teacher, net, forward - viewed - teacher - net, backward - forward, end - backward)
        for part, seconds in zip(PARTS, found):
            self.seconds[part].append(seconds)
        self.seconds["step"].append(end - viewed)
        return end - viewed

    def peak(self) -> int:
        """Bytes that a step holds at most beside what was there before it."""
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            self.step()
        held = most = 0
        for event in recorded.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                most = max(most, held)
        for kept in self.seconds.values():
            kept.pop()  # slowed by the record
        return most


def outermost(module: nn.Module) -> list[Backbone]:
    nets = [m for m in module.modules() if isinstance(m, Backbone)]
    inner = {m for net in nets for m in net.modules() if m is not net}
    return [net for net in nets if net not in inner]


def labels() -> torch.Tensor:
    return torch.arange(BATCH) % CLASSES


def example(stream: str, i: int) -> dict[str, Any]:
    frames = (12,) if stream == "videos" else ()
    side = 48 if stream == "videos" else STORED
    return {"image": torch.randint(0, 256, (*frames, 3, side, side), dtype=torch.uint8), "label": i % CLASSES}


def measured(rounds: int) -> list[dict]:
    torch.manual_seed(0)
    arms = {name: Arm(make(), name) for name, (_, make) in ARMS.items()}
    plain = {net: Arm(Supervised(task(net), crop=(0.2, 1.0), flip=True), net.__name__) for net in (conv, vit, clips)}
    every = [*plain.values(), *arms.values()]
    for arm in every:
        arm.step()  # the first takes memory and builds what is kept
    memory = {arm: arm.peak() for arm in every}
    for arm in every:
        arm.seconds.clear()
    for _ in range(rounds):
        for arm in every:
            arm.step()
    rows = [row(f"supervised, {net.__name__}", arm, arm, memory) for net, arm in plain.items()]
    return rows + [row(name, arm, plain[ARMS[name][0]], memory) for name, arm in arms.items()]


def row(name: str, arm: Arm, plain: Arm, memory: dict[Arm, int]) -> dict:
    parts = {part: statistics.median(arm.seconds[part]) for part in PARTS}
    whole = sum(parts.values())
    over = [mine / theirs for mine, theirs in zip(arm.seconds["step"], plain.seconds["step"])]
    return {"method": name, "milliseconds": 1e3 * statistics.median(arm.seconds["step"]),
            "over_plain": statistics.median(over),
            "shares": {part: seconds / whole for part, seconds in parts.items()},
            "peak_mb": memory[arm] / 1e6, "memory_over_plain": memory[arm] / memory[plain]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    rows = measured(options.rounds)
    print(f"{'method':24s} {'ms':>7s} {'over':>6s} {'MB':>6s} {'over':>6s}  " + " ".join(f"{p:>9s}" for p in PARTS))
    for r in rows:
        print(f"{r['method']:24s} {r['milliseconds']:7.1f} {r['over_plain']:6.2f} {r['peak_mb']:6.0f} "
              f"{r['memory_over_plain']:6.2f}  " + " ".join(f"{100 * r['shares'][p]:8.1f}%" for p in PARTS))  # fmt: skip
    style = next(r["over_plain"] for r in rows if r["method"] == "advstyle")
    print(f"advstyle: {style:.3f} of the plain step; at most {TARGET}: {'met' if style <= TARGET else 'NOT met'}")
    if options.json:
        found = {"rows": rows, "target": {"advstyle": TARGET, "measured": style, "met": style <= TARGET},
                 "batch": BATCH, "rounds": options.rounds, "threads": 1, "cores": os.cpu_count(),
                 "machine": platform.machine(), "date": str(date.today()), "load": round(before, 1),
                 "versions": {k: versions()[k] for k in ("python", "torch", "timm")}}  # fmt: skip
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
