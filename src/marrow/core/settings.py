"""How long and how a method is trained: the keys of a `teach` stage. No torch here: recipes are checked with it."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Optim:
    """One player's optimiser and learning-rate curve.

    kind: "sgd" (momentum 0.9), "adamw", "adam", "lamb", "lars" or another optimiser name that timm knows.
    args: its arguments; weight decay is not applied to biases, norms and other 1-D weights.
    """

    kind: str = "adamw"
    lr: float = 1e-3
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedule: str = "cosine"  # cosine, constant, linear
    warmup_percent: float = 5.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything the engine needs besides the method and the data.

    Exactly one of steps, epochs, examples is given; epochs count the first stream. batch: examples of one optimiser
    step over all ranks, a number or one per stream. micro_batch: the most that goes through the network at once.
    """

    steps: int | None = None
    epochs: float | None = None
    examples: int | None = None
    optim: dict[str, Optim] = dataclasses.field(default_factory=lambda: {"main": Optim()})
    batch: int | dict[str, int] = 64
    micro_batch: int | None = None
    workers: int = 0
    seed: int = 0
    clip: float | None = None  # gradient norm
    cached_views: int | None = None  # so many views an image has; what a frozen teacher says of each is stored
    precision: str = "32-true"  # Fabric's names: 32-true, bf16-mixed, 16-mixed
    channels_last: bool = False
    compile: bool = False
    checkpoint_gradients: bool = False
    ema: float | None = None  # decay of an average of the product's weights, which then is the product
    layer_decay: float | None = None  # each layer's learning rate is this times that of the layer above
    lr_multipliers: tuple[float, ...] | None = None  # one per stage of the backbone, stem first
    evaluate_percent: float | None = None  # measure on `val` every so many percent of the training
    patience: int | None = None  # stop after so many measurements without a better one; the best weights are kept
    select: str | None = None  # the metric whose best value decides on both; the first row's
    log_every: int = 10
    checkpoint_seconds: float = 30.0
