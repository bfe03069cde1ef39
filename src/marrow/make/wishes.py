"""What a user asks of `marrow make`."""

from __future__ import annotations

import dataclasses
import math

from ..core.errors import MarrowError, near
from . import pretrain
from .budgets import Budgets

# What can be left out -> the row that is then missing from the report, with the reason that stands there.
SKIPPABLE = {
    "baseline": "without it nobody knows what the teacher bought",
    "finetune": "the teacher is then its pretrained backbone with a new head",
    "prune": "the student keeps its width",
    "int8": "the file that is shipped is fp32",
}
TARGETS = ("cpu",)


@dataclasses.dataclass(frozen=True)
class Wishes:
    """The options of the command; None leaves a choice to marrow. Raises with all that is wrong among them."""

    data: str | None = None
    val: str | None = None
    test: str | None = None
    unlabelled: str | None = None
    group_by: str | None = None
    teacher: str | None = None
    class_map: str | None = None
    student: str | None = None
    pretrain: str | None = None
    compare: str | None = None
    target: str = "cpu"
    budgets: Budgets = Budgets()
    img_size: int | None = None
    batch: int | None = None
    epochs: float | None = None
    device: str = "auto"
    seed: int = 0
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = [f"--skip: '{word}' cannot be left out{near(word, SKIPPABLE)}" for word in self.skip
                    if word not in SKIPPABLE]  # fmt: skip
        if self.pretrain is not None and self.pretrain not in (known := pretrain.methods()):
            problems.append(f"{pretrain.OPTION}: '{self.pretrain}' does not train one backbone on one set of images; "
                            f"{', '.join(known)} do")  # fmt: skip
        if self.target not in TARGETS:
            problems.append(f"--target: '{self.target}' is no target yet; known: {', '.join(TARGETS)}")
        if self.epochs is not None and not (math.isfinite(self.epochs) and self.epochs > 0):
            problems.append(f"--epochs: {self.epochs:g} is not a number of passes above 0")
        if self.epochs is not None and self.budgets.minutes is not None:
            problems.append("--epochs: it fixes the length that --minutes is to find; give one of the two")
        for option, value, least in (("--img-size", self.img_size, 16), ("--batch", self.batch, 2)):
            if value is not None and value < least:
                problems.append(f"{option}: {value} is too small; at least {least}")
        if problems:
            raise MarrowError.listing(problems, "the options")
