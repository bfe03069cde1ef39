"""Small classifiers of real digits to export, and the data streams that exporters read."""

from __future__ import annotations

from copy import deepcopy
from typing import Callable

import pytest
import torch

from marrow.core.engine import Engine
from marrow.core.loader import Data
from marrow.core.settings import Optim, Settings
from marrow.core.source import Source
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.tasks.classify import Classify
from marrow.teach.supervised import Supervised

NETS = {
    "resnet10t": {"channels": (16, 32, 64, 96), "stem_width": 16},
    "vit_tiny_patch16_224": {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3},
}


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(Settings(steps=60, batch=64, optim={"main": Optim("adamw", 3e-3)}), device="cpu")


@pytest.fixture(scope="session")
def digits() -> Callable[[float, float], Source]:
    """The embedded digits whose content hash is in a range."""
    return lambda low, high: open_source({"images": "digits", "hash": [low, high]}, "data")


@pytest.fixture(scope="session")
def streams(digits) -> Data:
    return Data({"calibration": digits(0.0, 0.1), "parity": digits(0.9, 1.0)})


@pytest.fixture(scope="session")
def classifier(engine, digits) -> Callable[[str], Classify]:
    """A copy of a classifier that knows the digits well enough (97 % for the resnet) for its answers to mean something."""
    trained: dict[str, Classify] = {}

    def make(name: str) -> Classify:
        if name not in trained:
            torch.manual_seed(0)
            task = Classify(TimmBackbone.create(name, img_size=32, **NETS[name]), classes=10)
            task.labels = [str(i) for i in range(10)]
            engine.train(Supervised(task), Data({"train": digits(0.2, 0.8)}))
            trained[name] = task.eval()
        return deepcopy(trained[name])

    return make
