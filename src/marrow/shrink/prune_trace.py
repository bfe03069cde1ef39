"""Which channels of a convolutional net go together, found by Torch-Pruning. The one file that knows the library."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Any, Callable

import torch
import torch_pruning
from timm.layers import CecaModule, EcaModule
from torch import Tensor, nn

from ..nn.channels import kept_count, strongest
from .slicing import attributes_of

Kept = dict[str, tuple[list[int] | None, ...]]  # tensor -> kept indices of its first dimensions
Values = dict[str, dict[str, Any]]  # module -> attributes

# Tracing meets whatever a net does; these are what the library and torch raise where it does something unforeseen.
UNTRACEABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Untraceable(Exception):
    """The library cannot follow the channels of this net."""


def cut_channels(
    model: nn.Module,
    image: Tensor,
    forward: Callable[[nn.Module, Tensor], Any],
    protected: list[str],
    ratio: float,
    round_to: int,
) -> tuple[Kept, Values]:
    """What stays of every tensor that loses channels, and what its modules then know about themselves.

    protected: names of layers whose outputs stay. Indices are found by pruning a copy whose tensors hold their own positions.
    """
    copy = without_gates(deepcopy(model).eval().requires_grad_(True))
    if any(isinstance(m, nn.Conv1d) for m in copy.modules()):
        raise Untraceable  # convolutions over channels, with which the library would not come to an end
    shapes = {name: tensor.shape for name, tensor in copy.state_dict().items()}
    try:
        with torch.inference_mode(False), torch.enable_grad():
            graph = torch_pruning.DependencyGraph()
            graph.build_dependency(copy, image, forward_fn=forward, verbose=False)
            if any(node.type == torch_pruning.ops.OPTYPE.SLICE and node.grad_fn._saved_dim == 1
                   for node in graph.module2node.values()):  # fmt: skip
                raise Untraceable  # channels taken apart and put together again (ReXNet): no end either
            chosen = _choose(graph, [copy.get_submodule(name) for name in protected], ratio, round_to)
            _number(copy)
            for layer, gone in chosen:
                prune = graph.get_pruner_of_module(layer).prune_out_channels
                graph.get_pruning_group(layer, prune, gone).prune(record_history=False)
    except UNTRACEABLE as error:
        raise Untraceable from error
    return _read(copy, shapes)


def without_gates(model: nn.Module) -> nn.Module:
    """The model with identities for the gates of ECA-Net, whose kernels slide over however many channels there are."""
    for name, module in list(model.named_modules()):
        if isinstance(module, (EcaModule, CecaModule)):
            model.set_submodule(name, nn.Identity())
    return model


def _choose(graph: Any, protected: list[nn.Module], ratio: float, round_to: int) -> list[tuple[nn.Module, list[int]]]:
    """(layer, output channels that go) for one layer of every group."""
    importance = torch_pruning.importance.GroupMagnitudeImportance(p=2, normalizer=None)
    chosen = []
    for group in graph.get_all_groups(ignored_layers=protected):
        layer, score = group[0].dep.target.module, importance(group)
        if score is None or not len(score):
            continue
        grouped = max(_groups(item.dep.target.module) for item in group)
        kept = kept_count(len(score), ratio, round_to, grouped)
        if kept < len(score):
            stays = set(strongest(score, kept, grouped))
            chosen.append((layer, [i for i in range(len(score)) if i not in stays]))
    return chosen


def _groups(module: Any) -> int:
    """Groups of channels that must stay equally large; the channels of a depthwise convolution may go one by one."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    if isinstance(module, nn.Conv2d) and module.groups != module.out_channels:
        return module.groups
    return 1


def _sizes(shape: torch.Size) -> tuple[int, ...]:
    """Sizes of the dimensions that can lose channels; the extent of a kernel cannot."""
    return (*shape[:2], 1, 1) if len(shape) == 4 else tuple(shape)


def _positions(shape: torch.Size) -> Tensor:
    return torch.arange(math.prod(_sizes(shape)), dtype=torch.float64).view(_sizes(shape))  # exact up to 2^53


def _number(model: nn.Module) -> None:
    """Every element becomes its own position, so that what is left tells which channels stayed."""
    for parameter in model.parameters():
        parameter.data = _positions(parameter.shape)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            module.running_mean = _positions(module.running_mean.shape)
            module.running_var = _positions(module.running_var.shape)


def _read(copy: nn.Module, shapes: dict[str, torch.Size]) -> tuple[Kept, Values]:
    kept: Kept = {}
    for name, tensor in copy.state_dict().items():
        sizes = _sizes(shapes[name])
        cut = [d for d, size in enumerate(sizes) if size > 1 and tensor.shape[d] != size]
        if cut:
            kept[name] = tuple(_along(tensor, sizes, d) if d in cut else None for d in range(max(cut) + 1))
    values: Values = {}
    for place, module in copy.named_modules():
        names = sorted(attributes_of(module))
        if names and any(name.rpartition(".")[0] == place for name in kept):
            values[place] = {name: getattr(module, name) for name in names}
    return kept, values


def _along(left: Tensor, sizes: tuple[int, ...], dim: int) -> list[int]:
    """The indices of a dimension that stayed, from the positions that are left."""
    line = left[tuple(slice(None) if d == dim else 0 for d in range(left.ndim))]
    return (line.long() // math.prod(sizes[dim + 1 :]) % sizes[dim]).tolist()
