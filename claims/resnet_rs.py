"""Is the training of ResNet-RS better than the one that residual nets came with, on the same net for as long?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CIFAR = str(DATA / "cifar10")

STEPS = 4000
NET = {
    "backbone": "resnet10t", "img_size": 32, "layers": [1, 1, 2, 1], "channels": [32, 64, 128, 256], "stem_width": 16,
    "block_args": {"attn_layer": "se"},
}  # fmt: skip
STAGE = {
    "teach": "supervised",
    "data": {"train": [{"images": CIFAR, "split": "train", "hash": [0.0, 0.2]}], "batch": 64},
    "precision": "bf16-mixed",
    "channels_last": True,
}


def task(net: dict, smoothing: float) -> dict:
    return {"task": "classify", "backbone": net, "classes": 10, "label_smoothing": smoothing}


def steps() -> list[dict]:
    """A rate that is divided by 10 after a half and three quarters: a stage each."""
    stages = []
    for i, (share, rate) in enumerate(((0.5, 0.05), (0.25, 0.005), (0.25, 0.0005))):
        start = task(NET, 0.0) if i == 0 else {"stage": i - 1}
        optim = {"sgd": {"lr": rate, "weight_decay": 1e-4}, "schedule": "constant", "warmup_percent": 0}
        stages.append({**STAGE, "name": f"rate{i + 1}", "task": start, "args": {"pad": 4, "flip": True}, "optim": optim,
                       "steps": int(share * STEPS)})  # fmt: skip
    return stages


RS = {
    **STAGE,
    "task": task({**NET, "drop_rate": 0.25}, 0.1),
    "args": {"pad": 4, "flip": True, "randaugment": 10},
    "optim": {"sgd": {"lr": 0.05, "weight_decay": 4e-5}, "schedule": "cosine", "warmup_percent": 1.43},
    "ema": 0.99,
    "steps": STEPS,
}

CLAIM = Claim(
    paper="Bello et al., Revisiting ResNets, NeurIPS 2021, table 1: ResNet-200 from 79.0 to 82.2 by its training alone",
    says="cosine, averaged weights, label smoothing, RandAugment, dropout and a lower weight decay together make a better net "
    "than a stepped rate, flips and crops, on the same architecture for as many steps",
    arms={"ResNet-RS": {"seed": 0, "stages": [RS]}, "plain": {"seed": 0, "stages": steps()}},
    measure="top1",
    better="ResNet-RS",
    than="plain",
    by=0.01,
    test=[{"images": CIFAR, "split": "test"}],
    data="CIFAR-10, JPEG-compressed copies: 10,000 training images, 10,000 test images",
    minutes=35,
    full_scale="recipes/resnet_rs.full.yaml",
    unlike="Both arms have squeeze-and-excitation and the deep stem, so only the training differs. The peak rate is the same "
    "in both and was not searched for. 26 epochs, where the paper has 350.",
)
