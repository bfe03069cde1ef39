"""Does a pyramid of attention segment better than a convolutional net of the same cost?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CAMVID = str(DATA / "camvid")

# 176.4 M and 176.3 M MACs a picture with the decoder; both give maps at strides 4 to 32.
RESNET = {"backbone": "resnet10t", "layers": [1, 1, 2, 1], "channels": [32, 64, 128, 256], "stem_width": 16}
PVT = {"backbone": "pvt_tiny", "dims": [32, 64, 96, 128], "heads": [1, 2, 4, 4], "depths": [2, 2, 2, 2]}


def arm(backbone: dict) -> dict:
    stage = {
        "teach": "supervised",
        "task": {"task": "segment", "backbone": {**backbone, "img_size": [96, 128]}, "classes": 11, "width": 64},
        "data": {"train": [{"images": CAMVID, "split": "train", "void": 11}], "batch": 8},
        "args": {"crop": [0.25, 1.0], "flip": True},
        "optim": {"adamw": {"lr": 1e-3, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5},
        "steps": 1500,
    }
    return {"seed": 0, "stages": [stage]}


CLAIM = Claim(
    paper="Wang et al., Pyramid Vision Transformer, ICCV 2021, table 5: semantic FPN on ADE20K, PVT-Tiny 35.7 against "
    "ResNet-18 32.9",
    says="a semantic FPN on a pyramid of attention segments better than on a ResNet of equal cost",
    arms={"pvt": arm(PVT), "resnet": arm(RESNET)},
    measure="miou",
    better="pvt",
    than="resnet",
    by=0.01,
    test=[{"images": CAMVID, "split": "test", "void": 11}],
    data="CamVid: 367 training and 233 test frames, at 96 x 128, 11 classes",
    minutes=50,
    full_scale="recipes/pvt.full.yaml",
    unlike="Both nets are untrained at the start, the paper's are trained on ImageNet, which a net without convolutions needs "
    "more: 367 frames are few for it. One learning rate for both, not searched for.",
)
