"""Optimisers of a method's players, their parameter groups, and the learning-rate curve."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any, Iterable

import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers
from torch import nn
from torch.nn import Parameter
from torch.optim import Optimizer

from .contracts import Method
from .errors import MarrowError, near
from .exact import preserved
from .settings import Optim, Settings
from .timm_backbone import TimmBackbone

TORCH = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
SCHEDULES = ("cosine", "linear", "constant")
KEPT_OF_GROUP = ("params", "step")  # some of timm's count their steps in a group


def lr_at(progress: float, schedule: str, warmup_percent: float) -> float:
    """The factor of the learning rate: up from 0 during the warm-up, then down to 0 at progress 1, or level."""
    warmup = warmup_percent / 100.0
    if progress < warmup:
        return progress / warmup
    left = (1.0 - progress) / (1.0 - warmup) if warmup < 1.0 else 1.0
    if schedule == "cosine":
        return 0.5 * (1.0 - math.cos(math.pi * left))
    return left if schedule == "linear" else 1.0


def build(method: Method, settings: Settings) -> dict[str, Optimizer]:
    """One optimiser a player. Every group carries `scale`, what the learning rate is multiplied with there."""
    if set(settings.optim) != set(method.players):
        raise MarrowError(f"{type(method).__name__} has the players {', '.join(method.players)}; "
                          f"given: {', '.join(sorted(settings.optim))}", where="optim")  # fmt: skip
    groups = method.groups()
    names = {p: name for name, p in method.named_parameters()}
    scales = _scales(method, settings)
    spared = _spared(method)
    found = {}
    for player in method.players:
        optim, where = settings.optim[player], f"optim.{player}" if len(method.players) > 1 else "optim"
        if not groups.get(player):
            raise MarrowError(f"{type(method).__name__} has nothing to train for player '{player}'", where=where)
        if unknown := [p for p in groups[player] if p not in names]:
            raise MarrowError(f"{len(unknown)} parameters of player '{player}' are not the method's", where=where)
        decay = optim.args.get("weight_decay", 0.0)
        split: dict[tuple[float, bool], list[Parameter]] = {}
        for p in groups[player]:
            decays = bool(decay) and p.ndim > 1 and not names[p].endswith(".bias") and names[p] not in spared
            split.setdefault((scales.get(names[p], 1.0), decays), []).append(p)
        found[player] = _optimizer(optim, [
            {"params": params, "weight_decay": decay if decays else 0.0, "scale": scale, "lr": optim.lr * scale}
            for (scale, decays), params in split.items()
        ], where)  # fmt: skip
    return found


def _optimizer(optim: Optim, groups: list[dict], where: str) -> Optimizer:
    if optim.schedule not in SCHEDULES:
        raise MarrowError(f"unknown schedule '{optim.schedule}'{near(optim.schedule, SCHEDULES)}", where=where)
    if not 0 <= optim.warmup_percent <= 100:
        raise MarrowError(f"warmup_percent {optim.warmup_percent} is outside 0..100", where=where)
    args = {k: tuple(v) if isinstance(v, list) else v for k, v in optim.args.items() if k != "weight_decay"}
    if optim.kind not in TORCH:
        if optim.kind not in (known := list_optimizers()):
            raise MarrowError(f"unknown optimiser '{optim.kind}'{near(optim.kind, known)}", where=where)
        if get_optimizer_info(optim.kind).second_order:
            raise MarrowError(f"{optim.kind} needs second derivatives, which the engine does not compute", where=where)
        try:
            return create_optimizer_v2(groups, optim.kind, lr=optim.lr, **args)
        except TypeError as error:
            raise MarrowError(f"{optim.kind} does not take these arguments ({error})", where=where) from None
        except (AssertionError, ImportError) as error:  # those of other libraries, and for other devices
            raise MarrowError(f"{optim.kind} cannot be used here ({error})", where=where) from None
    cls = TORCH[optim.kind]
    known = set(inspect.signature(cls).parameters) - {"params", "lr", "foreach"}
    if unknown := sorted(set(args) - known):
        raise MarrowError(f"{optim.kind} has no argument '{unknown[0]}'{near(unknown[0], known)}", where=where)
    momentum = {"momentum": 0.9} if optim.kind == "sgd" else {}
    return cls(groups, lr=optim.lr, foreach=True, **{**momentum, **args})


def state(optimizer: Optimizer) -> dict[str, Any]:
    """What a checkpoint keeps of an optimiser: all that its steps change. How it is set up follows from the recipe."""
    full = optimizer.state_dict()
    groups = [{key: group[key] for key in KEPT_OF_GROUP if key in group} for group in full["param_groups"]]
    return {"state": full["state"], "param_groups": groups}


def restore(optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Take up what `state` gave, checked by then (`checkpoint_check.py`)."""
    groups = [{**own, **kept} for own, kept in zip(optimizer.param_groups, saved["param_groups"])]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": groups})


def kept_of(weight: Parameter, optim: Optim) -> dict[str, Any]:
    """What an optimiser keeps of such a weight, by name: found out on one of zeros, as each has names of its own."""
    twin = Parameter(torch.zeros(weight.shape, dtype=weight.dtype))
    twin.grad = torch.zeros_like(twin)
    with preserved():
        tried = _optimizer(optim, [{"params": [twin], "weight_decay": 0.0, "scale": 1.0, "lr": optim.lr}], "optim")
        tried.step()
    return dict(tried.state[twin])


def _backbones(method: nn.Module) -> Iterable[tuple[str, TimmBackbone]]:
    """The timm backbones that are trained, with their names in the method."""
    for name, module in method.named_modules():
        if isinstance(module, TimmBackbone) and any(p.requires_grad for p in module.parameters()):
            yield name, module


def _spared(method: nn.Module) -> set[str]:
    """Weights that a net wants free of weight decay."""
    found = set()
    for name, backbone in _backbones(method):
        if hasattr(backbone.net, "no_weight_decay"):
            found |= {f"{name}.net.{weight}" for weight in backbone.net.no_weight_decay()}
    return found


def _scales(method: nn.Module, settings: Settings) -> dict[str, float]:
    """The learning-rate factor of each weight inside a backbone; what is not named has 1."""
    decay, multipliers = settings.layer_decay, settings.lr_multipliers
    if decay is None and multipliers is None:
        return {}
    where = "layer_decay" if decay is not None else "lr_multipliers"
    if decay is not None and multipliers is not None:
        raise MarrowError("layer_decay and lr_multipliers say the same thing; give one", where=where)
    backbones = list(_backbones(method))
    if not backbones:
        raise MarrowError("there is no timm backbone to train whose layers are known", where=where)
    inside = {f"{name}.net.{n}" for name, b in backbones for n, _ in b.net.named_parameters()}
    has_head = any(p.requires_grad and n not in inside for n, p in method.named_parameters())
    scales: dict[str, float] = {}
    for name, backbone in backbones:
        layers, count = layers_of(backbone.net, coarse=decay is None)
        found: dict[str, float] = {}
        if decay is not None:
            top = count if has_head else max(layers.values())
            found = {n: decay ** (top - layer) for n, layer in layers.items()}
        elif multipliers is not None:
            if len(multipliers) != count:
                raise MarrowError(f"{len(multipliers)} numbers for {count} stages (stem first) of "
                                  f"{backbone.spec['source']}", where=where)  # fmt: skip
            found = {n: multipliers[min(layer, count - 1)] for n, layer in layers.items()}
        scales |= {f"{name}.net.{n}": scale for n, scale in found.items()}
    return scales


def layers_of(net: nn.Module, coarse: bool) -> tuple[dict[str, int], int]:
    """The layer, or with `coarse` the stage, of each weight by timm's matcher, 0 the stem; and how many there are.

    What the matcher leaves out (a last norm, a neck) belongs to the head and has their number as its layer.
    """
    matcher = net.group_matcher(coarse=coarse)
    layers = group_parameters(net, matcher, reverse=True)
    patterns = [p for spec in matcher.values() if spec is not None
                for p in ([spec] if isinstance(spec, str) else [s[0] for s in spec])]  # fmt: skip
    matched = {n: layer for n, layer in layers.items() if any(re.match(p, n) for p in patterns)}
    count = max(matched.values()) + 1
    return {n: matched.get(n, count) for n in layers}, count
