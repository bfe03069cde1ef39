"""Does a net that was trained place by place hold more of a street than one trained on whole pictures?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CAMVID = str(DATA / "camvid")

NET = {
    "backbone": "resnet10t",
    "img_size": [96, 128],
    "channels": [16, 32, 64, 64],
    "stem_width": 8,
    "output_stride": 16,
}
PROBE = {
    "train": [{"images": CAMVID, "split": "train", "void": 11}],
    "test": [{"images": CAMVID, "split": "test", "void": 11}],
}
HEADS = {"hidden": 256, "out": 64, "crop": [0.2, 1.0]}


# Found for each arm by itself with 110 steps and one seed on CamVid's validation frames: places 0.200, 0.210, 0.210 mIoU at
# 1e-3, 3e-3, 6e-3; whole pictures 0.189, 0.202, 0.190 at 3e-4, 1e-3, 3e-3. The other arms take that of the places.
PLACES, WHOLE = 3e-3, 1e-3


def arm(*, method: str = "pixpro", lr: float = PLACES, steps: int = 400, **args: float) -> dict:
    """Pre-training on the frames without masks, and a linear classifier of the places of the last map."""
    trained = {"teach": method, "name": "net", "backbone": NET, "args": {**HEADS, **args},
               "data": {"train": [{"images": CAMVID, "split": "train", "labels": False}], "batch": 32},
               "optim": {"adamw": {"lr": lr, "weight_decay": 0.01}, "schedule": "cosine", "warmup_percent": 5},
               "steps": steps}  # fmt: skip
    probe = {"examine": "dense_probe", "name": "probe", "model": {"stage": "net"}, "data": PROBE}
    return {"seed": 0, "stages": [trained, probe]}


CLAIM = Claim(
    paper="Xie et al., PixPro, CVPR 2021: VOC detection (C4) AP 58.8 after 100 epochs on ImageNet, 57.6 of the best method on "
    "whole pictures; PixContrast 58.1",
    says="the places of a map hold more of a street after training place by place than after training on whole pictures",
    arms={
        "places": arm(pixel_weight=1.0, instance_weight=0.0),
        "whole pictures": arm(lr=WHOLE, pixel_weight=0.0, instance_weight=1.0),
        "places and whole pictures": arm(pixel_weight=1.0, instance_weight=1.0),
        "places by contrast": arm(method="pixcontrast"),
        "one step": arm(steps=1),
    },
    measure="miou",
    better="places",
    than="whole pictures",
    by=0.02,
    test=[{"images": CAMVID, "split": "test", "void": 11}],
    data="CamVid: 367 frames at 96 x 128 without masks to train on; the same with masks for the linear classifier; 233 test frames",
    minutes=40,
    full_scale="recipes/pixpro.full.yaml",
    unlike="400 steps of 32, 35 passes over frames of a few drives, where the paper has 100 passes over ImageNet; AdamW in "
    "place of LARS; maps of 6 x 8. Places and whole pictures have the learning rate of three that was best for them on the "
    "validation frames, within 0.0002; the other arms have that of the places. 'One step' is a net that is all but untrained.",
)
