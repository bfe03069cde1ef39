"""Do two equal nets, one feeding the other, segment better than one, and than a deeper one of equal cost?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CAMVID = str(DATA / "camvid")
WEIGHTS = DATA / "cifar10-weights-jpeg"


def arm(backbone: dict, **task: object) -> dict:
    """One training on CamVid; every backbone starts from its net's weights for CIFAR-10."""
    stage = {
        "teach": "supervised",
        "task": {
            "task": "segment",
            "backbone": {**backbone, "img_size": [96, 128]},
            "classes": 11,
            "width": 48,
            **task,
        },
        "data": {"train": [{"images": CAMVID, "split": "train", "void": 11}], "batch": 8},
        "args": {"crop": [0.25, 1.0], "flip": True},
        "optim": {"adamw": {"lr": 2e-3, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5},
        "steps": 400,
        "precision": "bf16-mixed",
        "channels_last": True,
    }
    return {"seed": 0, "stages": [stage]}


def single(depth: int) -> dict:
    return {"backbone": f"cifar_resnet{depth}", "weights": str(WEIGHTS / f"resnet{depth}.safetensors")}


COMPOSITE = {**single(20), "backbone": "cb_resnet50", "base": "cifar_resnet20"}

CLAIM = Claim(
    paper="Liang et al., CBNet: A Composite Backbone Network Architecture for Object Detection (CBNetV2), IEEE TIP 2022: "
    "Faster R-CNN with ResNet-50 on COCO, 37.4 AP alone and 40.8 AP as a composite with assistant supervision",
    says="a composite of two nets with assistant supervision segments better than its single net",
    arms={
        "composite, assistant supervision": arm(COMPOSITE, assistant="members.0.norms.2", assistant_weight=0.5),
        "composite": arm(COMPOSITE),
        "deeper single net": arm(single(32)),  # 69 M MACs at 32 px, the composite 67 M
        "single net": arm(single(20)),
    },
    measure="miou",
    better="composite, assistant supervision",
    than="single net",
    by=0.02,
    test=[{"images": CAMVID, "split": "test", "void": 11}],
    data="CamVid at 96 x 128: the frames of its train and test splits, 11 classes",
    minutes=40,
    full_scale="recipes/cbnet.full.yaml",
    unlike="The paper's claim is about detection; here a semantic FPN reads the maps, and a head of its own supervises the "
    "assistant, where the paper runs the lead's head on both. The learning rate is one for all arms and was not searched for.",
)
