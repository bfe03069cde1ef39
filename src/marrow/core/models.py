"""From the model specs of recipes to modules."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Mapping

import torch
from torch import nn

from . import limits
from . import spec as spec_tree
from .artifact import Artifact
from .catalogue import contract_class
from .contracts import Backbone, Method, Task
from .errors import MarrowError, near
from .runtime import Runner
from .signature import signature
from .timm_backbone import TimmBackbone

KINDS = {"Backbone": Backbone, "Task": Task, "Method": Method, "Runner": Runner}


def resolve(
    spec: Mapping[str, Any], stages: Mapping[int | str, Callable[[], Any]], where: str, meta: bool = False
) -> Any:
    """The model that a recipe's spec describes: a module, or a Runner where the spec points to an exported file.

    stages: what earlier stages made, by index and by name. meta: shapes only; no weights are read, nothing is
    downloaded and no memory is taken.
    """
    with torch.device("meta") if meta else nullcontext():
        return _resolve(spec, stages, where, meta)


def _resolve(spec: Any, stages: Mapping[int | str, Callable[[], Any]], where: str, meta: bool) -> Any:
    def arguments(values: Mapping[Any, Any]) -> dict[str, Any]:
        return {k: _resolve(v, stages, f"{where}.{k}", meta) if isinstance(v, Mapping) else _tuples(v)
                for k, v in values.items()}  # fmt: skip

    match spec:
        case {"task": str(stem), **rest}:
            values = arguments(rest)
            check_kinds("tasks", stem, values, where)
            limits.sizes({k: v for k, v in rest.items() if not isinstance(v, Mapping)}, where)
            with limits.building(stem, where):
                return spec_tree.build_task(stem, values, where)
        case {"teach": str(stem), **rest}:
            values = arguments(rest)
            check_kinds("teach", stem, values, where)
            return contract_class("teach", stem, where)(**values)
        case {"edit": str(kind), "of": [*parents], **rest}:
            spec_tree.check_parents(parents, where)
            models = [_resolve(p, stages, f"{where}.of[{i}]", meta) for i, p in enumerate(parents)]
            for i, model in enumerate(models):
                if not isinstance(model, nn.Module):
                    raise MarrowError(
                        f"an edit is made of models, got a {type(model).__name__}", where=f"{where}.of[{i}]"
                    )
            with limits.building(kind, where):
                return spec_tree.edited(kind, rest.get("values", {}), models, where)
        case {"backbone": str(name), **rest} if name.startswith("hf:"):
            if unknown := sorted(map(str, set(rest) - {"img_size"})):
                raise MarrowError(f"unknown key '{unknown[0]}'; a net of transformers takes img_size", where=where)
            size = _tuples(rest.get("img_size"))
            limits.sizes(size, f"{where}.img_size", limits.LARGEST_SIDE)
            opened_by = spec_tree.hf_backbone(where)
            return opened_by.create(name.removeprefix("hf:"), img_size=size, where=where, weights_too=not meta)
        case {"backbone": str(name), **rest}:
            left_out = ("pretrained", "weights") if meta else ()
            given: dict[str, Any] = {str(k): _tuples(v) for k, v in rest.items() if k not in left_out}
            limits.sizes(given, where, limits.LARGEST_OF_NET)
            with limits.building(name, where):
                return TimmBackbone.create(name, where=where, **given)
        case {"artifact": str(path), **rest}:
            opened = Artifact.open(path)
            shapes_only = meta and opened.kind in ("backbone", "task")
            model = spec_tree.build(opened.meta["spec"], f"{where}.artifact") if shapes_only else opened.load()
            return _part(model, rest, where)
        case {"stage": reference, **rest}:
            if reference not in stages:
                raise MarrowError(
                    f"no earlier stage {reference!r}{near(str(reference), map(str, stages))}", where=where
                )
            return _part(stages[reference](), rest, where)
    raise MarrowError(f"a model is one of backbone, task, artifact, stage, edit; got {spec!r}", where=where)


def check_kinds(folder: str, stem: str, models: Mapping[str, Any], where: str) -> None:
    """Raise when a role got a task for a backbone, a table for a model, and so on."""
    known = signature(folder, stem)
    for role, argument in known.roles.items() if known else ():
        if (model := models.get(role)) is None:
            continue
        kind = next((name for name, cls in KINDS.items() if isinstance(model, cls)), None)
        if kind in argument.kinds or "nn.Module" in argument.kinds:
            continue
        if kind is None:
            raise MarrowError(f"{stem} needs a model, got a {type(model).__name__}", where=f"{where}.{role}")
        wanted = " or ".join(sorted(argument.kinds))
        hint = " Add part: backbone." if kind == "Task" and "Backbone" in argument.kinds else ""
        raise MarrowError(
            f"{stem} needs a {wanted}, {type(model).__name__} is a {kind}.{hint}", where=f"{where}.{role}"
        )


def _part(model: Any, rest: Mapping[Any, Any], where: str) -> Any:
    if "part" not in rest:
        return model
    if not isinstance(model, nn.Module):
        raise MarrowError(f"an exported file has no part '{rest['part']}'", where=f"{where}.part")
    return spec_tree.part(model, rest["part"], f"{where}.part")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def backbone(name: str, **arguments: Any) -> nn.Module:
    """A backbone by name: marrow's own, any of timm's, or "hf:FOLDER_OR_NAME" of transformers.

    Every one takes `img_size`; the first two are untrained unless `pretrained` or `weights` is given.
    """
    return resolve({"backbone": name, **arguments}, {}, "backbone")


def task(stem: str, **arguments: Any) -> nn.Module:
    """A task by the name of its file; its roles are modules: `task("classify", backbone=net, classes=10)`."""
    check_kinds("tasks", stem, arguments, "task")
    return spec_tree.build_task(stem, arguments, "task")


def load(path: Path | str) -> Any:
    """What the artifact at a path holds: a module in eval mode, a Table, a Report, or a Runner."""
    return Artifact.open(path).load()
