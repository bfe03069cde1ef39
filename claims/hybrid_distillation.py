"""Is a student of two teachers as telling as one of the feature teacher, and more than one of the relation teacher?"""

import os
from pathlib import Path

from marrow.core.claim import Claim

DATA = Path(os.environ.get("MARROW_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
CIFAR = str(DATA / "cifar10")

PICTURES = {"images": CIFAR, "split": "train", "hash": [0.2, 0.6], "labels": False}
LABELLED = {"images": CIFAR, "split": "train", "per_class": 500}
VIT = {"backbone": "vit_tiny_patch16_224", "img_size": 32, "patch_size": 4, "depth": 6, "embed_dim": 128, "num_heads": 4,
       "class_token": False, "global_pool": "avg"}  # fmt: skip
WEIGHTS = str(DATA / "cifar10-weights-jpeg" / "resnet56.safetensors")
VIEW = {"crop": None, "pad": 4, "flip": True}
PRETRAINING = {
    "data": {"train": [PICTURES], "batch": 64},
    "optim": {
        "adamw": {"lr": 1e-3, "weight_decay": 0.05, "betas": [0.9, 0.95]},
        "schedule": "cosine",
        "warmup_percent": 5,
    },
}


def arm(**weights: float) -> dict:
    """The masked autoencoder, the student, a look at its attention, and a linear classifier on its features."""
    relations = {"teach": "mae", "name": "relations", "encoder": VIT, "args": {"width": 96, "depth": 1, "heads": 3, **VIEW},
                 "steps": 300, **PRETRAINING}  # fmt: skip
    student = {"teach": "hybrid_distillation", "name": "student", "student": VIT, "relation_teacher": {"stage": "relations"},
               "feature_teacher": {"backbone": "cifar_resnet56", "img_size": 32, "weights": WEIGHTS},
               "args": {**weights, "keep": 0.7, **VIEW}, "steps": 230, **PRETRAINING}  # fmt: skip
    look = {"examine": "attention_diversity", "name": "attention", "model": {"stage": "student"},
            "data": {"test": [{"images": CIFAR, "split": "test", "fraction": 0.05}]}}  # fmt: skip
    probe = {"teach": "supervised", "name": "probe", "task": {"task": "classify", "backbone": {"stage": "student"}, "classes": 10},
             "data": {"train": [LABELLED], "batch": 128}, "args": {"head_only": True, "pad": 4, "flip": True},
             "optim": {"adamw": {"lr": 1e-2, "weight_decay": 0.0}, "schedule": "cosine"}, "steps": 120}  # fmt: skip
    return {"seed": 0, "stages": [relations, student, look, probe]}


CLAIM = Claim(
    paper="Shi et al., Hybrid Distillation, ICLR 2024: DeiT-B and MAE-B teach a ViT-B that is as telling as DeiT's student "
    "and whose last layers attend as diversely as MAE's",
    says="a student of a masked autoencoder's relations and a supervised net's features has features that a linear classifier "
    "tells apart better than those of a student of the relations alone",
    arms={
        "both teachers": arm(alpha=1.0, beta=1.0),
        "relations only": arm(alpha=1.0, beta=0.0),
        "features only": arm(alpha=0.0, beta=1.0),
    },
    measure="top1",
    better="both teachers",
    than="relations only",
    by=0.03,
    test=[{"images": CIFAR, "split": "test"}],
    data="CIFAR-10, JPEG-compressed copies: 20,000 training images without labels, 5,000 labelled ones for the linear "
    "classifier, 10,000 test images",
    minutes=40,
    full_scale="recipes/hybrid_distillation.full.yaml",
    unlike="The feature teacher is convolutional, a ResNet-56 with 89.6 % on the test images that was trained on the labels of "
    "all 50,000 training images; the paper's is a ViT. The paper fine-tunes; here a linear classifier on frozen features is "
    "measured, which asks for what the feature teacher gives. 'Relations only' leaves the last block untrained. How diverse the "
    "attention is lies in each run's stage `attention`. The student sees 14,700 pictures, the masked autoencoder 19,200; no setting was "
    "tuned for any arm.",
)
