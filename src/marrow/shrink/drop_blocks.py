"""A shallower net: the last blocks of a stage are left out."""

from __future__ import annotations

import dataclasses
from copy import deepcopy
from typing import Any, Sequence

import torch
from torch import nn

from ..core.contracts import Backbone, Cut, Edit, Shrinker, Task
from ..core.errors import MarrowError, near

# Attributes that count the blocks of a stage, by the class of the module that holds the stage.
COUNTERS = {"SwinTransformerStage": "depth", "SwinTransformerV2Stage": "depth"}


@dataclasses.dataclass(frozen=True)
class Drop(Edit):
    """Without the last `count` blocks of the list of blocks at `stage`, a path from the backbone's own net."""

    stage: str
    count: int

    def apply(self, models: Sequence[nn.Module]) -> nn.Module:
        (model,) = models
        root = _net(model)
        blocks = _blocks(root, self.stage, self.count)
        kept = len(blocks) - self.count
        del blocks[kept:]
        holder = root.get_submodule(self.stage.rpartition(".")[0])
        if counter := COUNTERS.get(type(holder).__name__):
            setattr(holder, counter, kept)
        if hasattr(root, "feature_info"):
            root.feature_info = _feature_info(root.feature_info, self.stage, kept)
        return model


class DropBlocks(Shrinker):
    """Drops the last `count` blocks of a stage such as "layer3" (ResNet), "blocks" (ViT), "stages.2.blocks" (ConvNeXt, PVT).

    The first block of a stage often changes size or width and cannot be spared, so one at least stays. The weights of
    the other blocks are kept; training recovers most of the loss.
    """

    needs = {"model": set()}
    by_shape = True

    def __init__(self, *, stage: str = "layer3", count: int = 1):
        self.stage, self.count = stage, count

    def plan(self, models: dict[str, nn.Module], data: Any, engine: Any) -> Cut:
        edit = Drop(self.stage, self.count)
        model = models["model"]
        trial = edit.apply([deepcopy(model).to("meta").eval()])
        backbone = _backbone(trial)
        try:
            with torch.no_grad(), torch.device("meta"):
                pooled = backbone(torch.empty(1, backbone.input.channels, *backbone.input.size)).pooled
            fits = pooled.shape[-1] == backbone.dim
        except (LookupError, RuntimeError, ValueError):  # shapes that do not meet, blocks that something counts
            fits = False
        if not fits:
            raise MarrowError(f"without the last {self.count} blocks of '{self.stage}' what follows no longer fits",
                              where="drop_blocks.stage", hint="Name a stage whose blocks all have one shape.")  # fmt: skip
        return Cut(edit)


def _backbone(model: nn.Module) -> Backbone:
    if isinstance(model, Backbone):
        return model
    if isinstance(model, Task):
        return next(m for m in model.children() if isinstance(m, Backbone))
    raise MarrowError(f"{type(model).__name__} is neither a backbone nor a task", where="drop_blocks.model")


def _net(model: nn.Module) -> nn.Module:
    return _backbone(model).root


def _blocks(root: nn.Module, stage: str, count: int) -> nn.Sequential | nn.ModuleList:
    stages = {name: m for name, m in root.named_modules() if _is_row(m)}
    if stage not in stages:
        raise MarrowError(
            f"no stage '{stage}' with more than one block{near(stage, stages)}", where="drop_blocks.stage"
        )
    if not 1 <= count < len(stages[stage]):
        raise MarrowError(f"{count} is outside 1..{len(stages[stage]) - 1}: '{stage}' has {len(stages[stage])} blocks "
                          "and keeps one", where="drop_blocks.count")  # fmt: skip
    return stages[stage]


def _is_row(module: nn.Module) -> bool:
    """Blocks that may run one after another; a list that its owner walks through must hold equal ones."""
    if isinstance(module, nn.ModuleList):
        kinds = {(type(b), *((name, t.shape) for name, t in b.state_dict().items())) for b in module}
        return len(module) > 1 and len(kinds) == 1
    return isinstance(module, nn.Sequential) and len(module) > 1


def _feature_info(info: Any, stage: str, kept: int) -> Any:
    """An entry for a dropped block moves to the last one kept, and goes where that one has an entry already."""
    result, names = [], set()
    for entry in info:
        inside = entry["module"].removeprefix(f"{stage}.") if entry["module"].startswith(f"{stage}.") else ""
        number, _, rest = inside.partition(".")
        if number.isdigit() and int(number) >= kept:
            entry = {**entry, "module": ".".join(filter(None, [stage, str(kept - 1), rest]))}
        if entry["module"] not in names:
            names.add(entry["module"])
            result.append(entry)
    return result
