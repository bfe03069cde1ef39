"""Is the sub-net that evolution finds in a supernet better than a random one of the same cost?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CIFAR = str(DATA / "cifar10")

TRAIN = {"images": CIFAR, "split": "train", "hash": [0.0, 0.12]}
HOLDOUT = {"images": CIFAR, "split": "train", "hash": [0.98, 1.0]}
SUPERNET = {
    "task": "classify",
    "backbone": {
        "backbone": "vit_res_tiny",
        "img_size": 32,
        "patch_size": 4,
        "dims": [48, 96, 192],
        "head_dims": [16, 16, 16],
        "heads": [[4] * 3, [6] * 3, [8] * 3],
        "hidden": [[128] * 3, [256] * 3, [512] * 3],
    },
    "classes": 10,
}
SPACE = {"dims": [1.0, 0.75, 0.5], "heads": [1.0, 0.75, 0.5, 0.25], "hidden": [1.0, 0.75, 0.5, 0.25], "removable": [1]}
OPTIM = {"adamw": {"lr": 2e-3, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5}


def training(steps: int, **verb: object) -> dict:
    return {**verb, "data": {"train": [TRAIN], "batch": 64}, "optim": OPTIM, "steps": steps}


def found(supernet: dict, **search: int) -> list[dict]:
    """The search's stage, and the training of what it finds from new weights."""
    args = {**SPACE, "budget": 8.0e6, "fresh": True, **search}
    return [
        {
            "shrink": "vit_resnas_search",
            "name": "found",
            "task": supernet,
            "data": {"holdout": [HOLDOUT]},
            "args": args,
        },
        training(800, teach="supervised", task={"stage": "found"}, args={"pad": 4, "flip": True}),
    ]


SEARCHED = [
    training(500, teach="multi_architectural", name="supernet", task=SUPERNET,
             args={**SPACE, "architectures": 4, "pad": 4, "flip": True}),
    *found({"stage": "supernet"}, initial=40, population=10, generations=3),
]  # fmt: skip

CLAIM = Claim(
    paper="Liao et al., Searching for Efficient Multi-Stage Vision Transformers, arXiv 2109.00642, 2021: ViT-ResNAS-Tiny "
    "80.8 at 1.8 G MACs",
    says="trained from scratch, the sub-net that evolution finds in a supernet is better than a random one of the same MACs",
    arms={
        "searched": {"seed": 0, "stages": SEARCHED},
        "random": {"seed": 0, "stages": found(SUPERNET, initial=1, population=1, generations=0)},
    },
    measure="top1",
    better="searched",
    than="random",
    by=0.005,
    seeds=(0, 1, 2, 3),
    test=[{"images": CIFAR, "split": "test", "hash": [0.0, 0.5]}],
    data="CIFAR-10, JPEG-compressed copies: 6,000 training images, 1,000 held out for the search, 5,000 test images",
    minutes=40,
    full_scale="recipes/vit_resnas.full.yaml",
    unlike="A supernet of nine blocks at 32 px and 8 M MACs, 500 steps of four sub-nets each, and 100 candidates, where the paper "
    "has 120 epochs of ImageNet and 3,350. The random sub-net is the first that the same seed draws. What the search costs is "
    "not given to the random arm.",
)
