"""A sub-net of a ViT-Res supernet as a net of its own: the first channels, heads and hidden units, cut out."""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from ..core.contracts import Task, signature_of
from ..core.errors import MarrowError
from ..core.timm_backbone import TimmBackbone
from .vit_resnas import VitRes
from .vit_resnas_space import Architecture


def supernet(task: nn.Module, where: str = "task") -> VitRes:
    """The ViT-Res inside a task."""
    if isinstance(task, Task):
        for backbone in task.children():
            if isinstance(backbone, TimmBackbone) and isinstance(backbone.root, VitRes):
                if backbone.root.distilled:
                    raise MarrowError("a ViT-Res with a distillation token is no supernet: distil into what was found",
                                      where=where)  # fmt: skip
                return backbone.root
    raise MarrowError(f"a task on a ViT-Res is needed, got {type(task).__name__}", where=where,
                      hint="Such as {task: classify, backbone: {backbone: vit_res_tiny}}.")  # fmt: skip


def extracted(task: Task, architecture: Architecture, fresh: bool = False) -> Task:
    """A task like this one on a sub-net of its backbone, with copies of the supernet's weights.

    fresh: with new random weights instead.
    """
    net, (name, backbone) = supernet(task), _backbone(task)
    small = _shaped(net, architecture, fresh)
    around = TimmBackbone(small, backbone.spec, backbone.input)
    arguments = {key: around if key == name else getattr(task, key) for key in signature_of(type(task))}
    found = type(task)(**arguments)
    found.labels = task.labels
    if not fresh:
        values = sliced(net, small, architecture)
        small.load_state_dict(values, assign=True)
        for key, value in found.state_dict().items():
            if not key.startswith(f"{name}."):
                value.copy_(_first(task.state_dict()[key], value.shape))
    found.to(next(task.parameters()).device)
    return found.train(task.training)


def sliced(net: VitRes, small: VitRes, architecture: Architecture) -> dict[str, Tensor]:
    """The weights of the sub-net, from those of the supernet."""
    theirs, found = net.state_dict(), {}
    for key, shape in ((k, v.shape) for k, v in small.state_dict().items()):
        stage, block, rest = _place(key)
        origin = key
        if block is not None:
            origin = f"stages.{stage}.blocks.{architecture.blocks[stage][block][0]}.{rest}"
        value = theirs[origin]
        if rest.startswith("attn.qkv."):  # queries, keys and values lie behind one another
            value = value.unflatten(0, (3, -1))[:, : shape[0] // 3].flatten(0, 1)
        found[key] = _first(value, shape).detach().clone()
    return found


def _first(value: Tensor, shape: torch.Size) -> Tensor:
    return value[tuple(slice(size) for size in shape)]


def _place(key: str) -> tuple[int, int | None, str]:
    """(stage, block, rest) of a name; no block where it is of no block."""
    if match := re.fullmatch(r"stages\.(\d+)\.blocks\.(\d+)\.(.+)", key):
        return int(match[1]), int(match[2]), match[3]
    return 0, None, key


def _backbone(task: Task) -> tuple[str, TimmBackbone]:
    return next((n, m) for n, m in task.named_children() if isinstance(m, TimmBackbone) and isinstance(m.root, VitRes))


def _shaped(net: VitRes, architecture: Architecture, fresh: bool) -> VitRes:
    """A net of the architecture's sizes; without memory where weights are put in afterwards."""
    with torch.get_default_device() if fresh else torch.device("meta"):
        return VitRes(
            img_size=net.size,
            patch_size=net.patch_size,
            dims=architecture.dims,
            head_dims=net.head_dims,
            heads=[[heads for _, heads, _ in stage] for stage in architecture.blocks],
            hidden=[[hidden for *_, hidden in stage] for stage in architecture.blocks],
            num_classes=0,
            in_chans=net.in_chans,
            global_pool=net.global_pool,
            drop_rate=net.drop_rate,
            drop_path_rate=net.drop_path_rate,
        )
