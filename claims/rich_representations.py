"""Do several nets that differ in their seed only know more for later tasks than one net of their size together?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CIFAR = str(DATA / "cifar10")

SOURCE = ["airplane", "bird", "deer", "frog", "ship"]
TARGET = ["automobile", "cat", "dog", "horse", "truck"]
NARROW = {"backbone": "resnet10t", "img_size": 32, "channels": [16, 32, 64, 128], "stem_width": 8}
WIDE = {
    "backbone": "resnet10t",
    "img_size": 32,
    "channels": [32, 64, 128, 256],
    "stem_width": 16,
}  # 4 times the weights
MEMBERS = ("first", "second", "third", "fourth")
FEW = {"images": CIFAR, "split": "train", "only": TARGET, "per_class": 300}


def source(name: str, net: dict, seed: int) -> dict:
    """One episode on the source classes. The learning rate is that of the claim about SSLD, found for such nets."""
    return {
        "teach": "supervised",
        "name": name,
        "seed": seed,
        "task": {"task": "classify", "backbone": net, "classes": len(SOURCE)},
        "data": {"train": [{"images": CIFAR, "split": "train", "only": SOURCE}], "batch": 64},
        "args": {"pad": 4, "flip": True},
        "optim": {"adamw": {"lr": 6e-3, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5},
        "steps": 1000,
    }


def sources() -> list[dict]:
    return [source(name, NARROW, seed) for seed, name in enumerate(MEMBERS)]


def features(name: str) -> dict:
    return {"stage": name, "part": "backbone"}


def cat() -> dict:
    return {"edit": "cat", "of": [features(name) for name in MEMBERS]}


def probe(model: dict) -> dict:
    """Logistic regression on the features of all images of the target classes."""
    train, test = ({"images": CIFAR, "split": split, "only": TARGET} for split in ("train", "test"))
    return {"examine": "linear_probe", "name": "probe", "model": model, "data": {"train": [train], "test": [test]}}


def tuned(name: str, backbone: dict) -> dict:
    """Fine-tuning of features on few images of the target classes."""
    return {
        "teach": "supervised",
        "name": name,
        "task": {"task": "classify", "backbone": backbone, "classes": len(TARGET)},
        "data": {"train": [FEW], "batch": 64},
        "args": {"pad": 4, "flip": True},
        "optim": {"adamw": {"lr": 2e-3, "weight_decay": 0.05}, "schedule": "cosine", "warmup_percent": 5},
        "steps": 250,
    }


def polished() -> dict:
    """The second stage: heads side by side, everything else frozen."""
    return {
        "teach": "supervised",
        "name": "polished",
        "task": {"edit": "cat", "of": [{"stage": f"tuned_{name}"} for name in MEMBERS]},
        "data": {"train": [FEW], "batch": 64},
        "args": {"pad": 4, "flip": True, "head_only": True},
        "optim": {"sgd": {"lr": 1e-3, "nesterov": True}},
        "steps": 50,
    }


def arm(*stages: dict) -> dict:
    return {"seed": 0, "stages": list(stages)}


CLAIM = Claim(
    paper="Zhang and Bottou, Learning useful representations for shifting tasks and distributions, ICML 2023: linear probes "
    "on iNaturalist 2018 of ten concatenated ResNet-50 49.6, of one 4 times wider 38.7, of one 37.9; fine-tuned in two "
    "stages 69.1, the concatenation at once 64.4",
    says="features of several nets that differ in their seed only are worth more for a later task than those of one net "
    "with as many weights",
    arms={
        "four nets, probed": arm(*sources(), probe(cat())),
        "one net as large, probed": arm(source("first", WIDE, 0), probe(features("first"))),
        "one of the four, probed": arm(source("first", NARROW, 0), probe(features("first"))),
        "four nets, tuned in two stages": arm(
            *sources(), *(tuned(f"tuned_{name}", features(name)) for name in MEMBERS), polished()
        ),
        "four nets, tuned at once": arm(*sources(), tuned("tuned", cat())),
    },
    measure="top1",
    better="four nets, probed",
    than="one net as large, probed",
    by=0.01,
    test=[{"images": CIFAR, "split": "test", "only": TARGET}],
    data="CIFAR-10, JPEG-compressed copies: five classes (25,000 images) to learn from, the other five (25,000; 1,500 where "
    "nets are fine-tuned) to learn then, 5,000 test images",
    minutes=30,
    full_scale="recipes/rich_representations.full.yaml",
    unlike="Nets of 0.3 M weights and 1,000 steps of 64 instead of ResNet-50 and 90 epochs; four instead of ten. The probe "
    "is a logistic regression solved to its minimum. The two arms that are fine-tuned see 1,500 images, so they are to "
    "be compared with each other and not with the probes; their learning rate was not searched.",
)
