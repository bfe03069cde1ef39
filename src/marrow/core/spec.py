"""Spec trees: how a saved model says what it is, and how it is built again.

    {"source": "timm:resnet18", "args": {"img_size": 32}}            a backbone
    {"source": "hf:vit", "args": {"config": {...}, "size": [...]}}   one of transformers
    {"task": "classify", "backbone": SPEC, "classes": 10}            a task
    {"edit": "drop_blocks", "values": {...}, "of": [SPEC, ...]}      an edited model
    {"part": "backbone", "of": [SPEC]}                               a part of one

Building never needs weights, parents or the network; only registered names and plain arguments are accepted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence  # typing.Mapping cannot stand in a match pattern
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from . import limits
from .catalogue import contract_class
from .contracts import Backbone, Cut, Edit, signature_of, stem_of
from .errors import MarrowError, near
from .extras import missing_for
from .signature import check_values, signature
from .timm_backbone import TimmBackbone

MOST_PARENTS = 32  # the largest published concatenation is of 20


def build(spec: Mapping[str, Any], where: str = "spec") -> nn.Module:
    """The untrained module that a spec describes, on the current default device (`with torch.device("meta")`)."""
    with limits.building("the model", where):
        return _built(spec, where)


def _built(spec: Mapping[str, Any], where: str) -> nn.Module:
    match spec:
        case {"source": str(source), **rest}:
            _only(rest, {"args"}, where)
            scheme, _, name = source.partition(":")
            if scheme not in ("timm", "hf"):
                raise MarrowError(f"unknown source '{source}'; known: timm:NAME, hf:FAMILY", where=where)
            args = _plain(rest.get("args", {}), f"{where}.args")
            if not isinstance(args, Mapping):
                raise MarrowError(f"arguments are a mapping, got {args!r}", where=f"{where}.args")
            limits.sizes(args, f"{where}.args", limits.LARGEST_OF_NET)
            if fetched := sorted({"pretrained", "weights", "where"} & set(args)):
                raise MarrowError(
                    f"a spec describes an untrained model; '{fetched[0]}' has no place in it", where=where
                )
            if scheme == "hf":
                return hf_backbone(where).build(name, where=where, **args)
            return TimmBackbone.create(name, where=where, **args)
        case {"task": str(stem), **rest}:
            limits.sizes({k: v for k, v in rest.items() if not isinstance(v, Mapping)}, where)
            models = {k: _built(v, f"{where}.{k}") for k, v in rest.items() if isinstance(v, Mapping)}
            arguments = {k: models[k] if k in models else _plain(v, where) for k, v in rest.items()}
            _check_task(stem, arguments, where)
            return build_task(stem, arguments, where)
        case {"edit": str(kind), "values": Mapping() as values, "of": [*parents], **rest}:
            _only(rest, set(), where)
            check_parents(parents, where)
            return edited(kind, values, (_built(p, f"{where}.of[{i}]") for i, p in enumerate(parents)), where)
        case {"part": str(name), "of": [parent], **rest}:
            _only(rest, set(), where)
            return part(_built(parent, f"{where}.of"), name, where)
    keys = sorted(map(str, spec)) if isinstance(spec, Mapping) else repr(spec)
    raise MarrowError(f"not a model spec: keys {keys}; one of source, task, edit, part is needed", where=where)


def hf_backbone(where: str) -> Any:
    """The class behind the scheme `hf:`; only here transformers is needed."""
    for sentence in missing_for("core", "hf_backbone"):
        raise MarrowError(sentence, where=where)
    from .hf_backbone import HfBackbone

    return HfBackbone


def build_task(stem: str, arguments: Mapping[str, Any], where: str) -> nn.Module:
    """A task from its stem and constructor arguments (roles are modules)."""
    cls = contract_class("tasks", stem, where)
    known = signature_of(cls)
    _only(arguments, set(known), where)
    if missing := [k for k, p in known.items() if p.default is p.empty and k not in arguments]:
        raise MarrowError(f"{cls.__name__} needs {', '.join(missing)}", where=where)
    return cls(**arguments)


def part(model: nn.Module, name: str, where: str = "part") -> nn.Module:
    """A named role of a task, with a spec of its own."""
    parts = dict(model.named_children())
    if name not in parts:
        raise MarrowError(f"{type(model).__name__} has no part '{name}'{near(name, parts)}", where=where)
    return parts[name]


def check_parents(parents: Sequence[Any], where: str) -> None:
    """Raise before so many models are built that no edit is made of them."""
    if len(parents) > MOST_PARENTS:
        raise MarrowError(f"an edit of {len(parents)} models; at most {MOST_PARENTS} make one", where=where)


def edited(kind: str, values: Mapping[str, Any], models: Iterable[nn.Module], where: str = "edit") -> nn.Module:
    """What the edit `shrink/<kind>.py` with these values makes of models, which are used up."""
    edit = edit_class(kind, where)
    _check_edit(edit, values, where)
    return apply(edit(**values), list(models))


def edit_class(kind: str, where: str = "edit") -> type[Edit]:
    """The one Edit that `shrink/<kind>.py` defines."""
    return contract_class("shrink", kind, where, contract="Edit")


def _check_task(stem: str, arguments: Mapping[str, Any], where: str) -> None:
    """Raise at an argument that is not what the task's constructor is annotated with."""
    known = signature("tasks", stem)
    if known is None:
        return  # `build_task` says that there is no such task
    for name, value in arguments.items():
        if name in known.values:
            for problem in check_values({name: value}, {name: known.values[name]}, known.name, where):
                raise MarrowError(problem)
        elif name in known.roles and not isinstance(value, (nn.Module, NoneType)):
            raise MarrowError(f"a model is needed, got {value!r}", where=f"{where}.{name}")


def _check_edit(edit: type[Edit], values: Mapping[str, Any], where: str) -> None:
    """Raise at a value that is not what the field of the edit is annotated with."""
    hints = get_type_hints(edit)
    known = {f.name for f in dataclasses.fields(edit)}
    _only(values, known, where)
    if missing := sorted(known - set(values)):
        raise MarrowError(f"the edit lacks '{missing[0]}'", where=where)
    for name, value in values.items():
        limits.sizes(value, f"{where}.values.{name}")
        if not _fits(value, hints[name]):
            raise MarrowError(f"{value!r} is not what the edit keeps as '{name}'", where=f"{where}.values")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of an annotated type: scalars, unions, Sequence[...] and Mapping[str, ...]."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(_fits(value, h) for h in inner)
    if origin in (Sequence, tuple, list):
        return isinstance(value, (list, tuple)) and all(_fits(v, inner[0]) for v in value)
    if origin in (Mapping, dict):
        return isinstance(value, Mapping) and all(_fits(v, inner[1]) for v in value.values())
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint


def apply(edit: Edit, models: Sequence[nn.Module]) -> nn.Module:
    """Apply an edit and write down in the result's spec how it came about; the models given are used up."""
    specs = [m.spec for m in models]
    result = edit.apply(models)
    result.spec = {"edit": stem_of(type(edit)), "values": to_json(edit), "of": specs}
    for name, child in result.named_children():
        if isinstance(child, Backbone):
            child.spec = {"part": name, "of": [result.spec]}
    for module in result.modules():
        module.__dict__.pop("_gives", None)  # found out anew for the edited net
    return result


def cut(models: Sequence[nn.Module], planned: Cut) -> nn.Module:
    """Carry out a Cut: the edited model with its new weights, or with those the edit kept."""
    model = apply(planned.edit, models)
    if planned.weights is not None:
        model.load_state_dict(planned.weights, strict=True)
    return model


def to_json(edit: Edit) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else (
            {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value)  # fmt: skip

    return {f.name: plain(getattr(edit, f.name)) for f in dataclasses.fields(edit)}


def saved_weights(model: nn.Module) -> dict[str, Tensor]:
    """What goes into weights.safetensors: a backbone is stored under its own net's keys (timm's, if unedited)."""
    root = model.root if isinstance(model, Backbone) else model
    return {k: v.detach() for k, v in root.state_dict().items()}


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    root = model.root if isinstance(model, Backbone) else model
    root.load_state_dict(weights, strict=True)


def meta(spec: Mapping[str, Any], where: str = "spec") -> nn.Module:
    """The model of a spec without memory for its weights."""
    with torch.device("meta"):
        return build(spec, where)


def _only(got: Mapping[str, Any], allowed: set[str], where: str) -> None:
    for key in got:
        if key not in allowed:
            raise MarrowError(f"unknown key '{key}'{near(key, allowed)}", where=where)


def _plain(value: Any, where: str) -> Any:
    """JSON scalars, lists (as tuples) and flat dicts of them; anything else does not belong in a spec."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(v, where) for v in value)
    if isinstance(value, Mapping):
        return {k: _plain(v, f"{where}.{k}") for k, v in value.items()}
    raise MarrowError(f"{type(value).__name__} is not a plain value", where=where)
