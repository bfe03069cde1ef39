"""Does channel attention with three to five weights a block help a small net, and as much as squeeze-and-excitation?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CIFAR = str(DATA / "cifar10")

# The learning rate is the one found for a plain net of half the depth in the claim about SSLD.
NET = {
    "backbone": "resnet10t",
    "img_size": 32,
    "layers": [2, 2, 2, 2],
    "channels": [32, 64, 128, 256],
    "stem_width": 16,
}


def arm(attention: str | None) -> dict:
    block = {"block_args": {"attn_layer": attention}} if attention else {}
    stage = {
        "teach": "supervised",
        "task": {"task": "classify", "backbone": {**NET, **block}, "classes": 10},
        "data": {"train": [{"images": CIFAR, "split": "train", "hash": [0.0, 0.24]}], "batch": 64},
        "args": {"pad": 4, "flip": True},
        "optim": {"adamw": {"lr": 6e-3, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5},
        "steps": 1800,
        "precision": "bf16-mixed",
        "channels_last": True,
    }
    return {"seed": 0, "stages": [stage]}


CLAIM = Claim(
    paper="Wang et al., ECA-Net, CVPR 2020, table 3: ResNet-18 from 70.40 to 70.78 (SE 70.59), ResNet-50 from 75.20 to 77.48 "
    "(SE 76.71)",
    says="ECA, a few weights a block, makes a residual net better, as much as squeeze-and-excitation or more",
    arms={"eca": arm("eca"), "se": arm("se"), "plain": arm(None)},
    measure="top1",
    better="eca",
    than="plain",
    by=0.003,
    test=[{"images": CIFAR, "split": "test"}],
    data="CIFAR-10, JPEG-compressed copies: 12,000 training images, 10,000 test images",
    minutes=30,
    full_scale="recipes/ecanet.full.yaml",
    unlike="Eight blocks instead of the paper's 8 to 50, 1,800 steps of 64, 10 epochs. The kernels are those of the rule (3 "
    "and 5). The learning rate was found for a plain net, so the other arms inherit it.",
)
