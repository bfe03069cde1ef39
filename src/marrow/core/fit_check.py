"""The second pass over a recipe: every model and method is built on the meta device; no data is read.

What a method needs is compared with what its models give; the table of costs comes out of the same walk.
"""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, Callable

import torch
from torch import nn

from .cache_key import check as check_cached
from .cache_records import widths
from .catalogue import contract_class
from .contracts import Backbone, Method, Shrinker, Task
from .cost import Cost, cost
from .errors import MarrowError
from .limits import running
from .models import check_kinds, resolve
from .optim import build as build_optimizers
from .recipe import Recipe, Stage
from .signature import signature
from .spec import cut
from .watch import roles as watched_roles

# Where to find what a model lacks: families of timm that give the word, or what to do.
SOURCES = {
    "qkv": "vit_*, deit_*",
    "tokens": "vit_*, deit_*",
    "maps": "resnet*, convnext_*",
    "relu": "resnet*, regnet*",
    "slimmable": "vit_res_tiny",
    "clips": "{edit: over_frames, values: {frames: 16, stride: 2}, of: [...]} or inflate",
    "nested": "what matryoshka trained",
    "logits": "{task: classify, backbone: ..., classes: 10}",
}


def check_fit(recipe: Recipe, base: Path = Path()) -> tuple[list[str], list[dict]]:
    """All problems, and one row per stage and model: stage, verb, role, model, params, macs, bytes.

    The recipe has passed the static pass. Names of backbones are looked up in timm's registry as it is now: import
    `marrow.backbones` first.
    """
    problems: list[str] = []
    rows: list[dict] = []
    made: dict[int | str, Callable[[], Any]] = {}
    known: dict[str, Cost] = {}  # by spec: roles and stages often hold the same net
    for stage in recipe.stages:
        where = f"stages[{stage.index}]"
        models, inner = _models(stage, made, where, problems)
        for role, model in {**models, **inner}.items():
            if not isinstance(model, (Backbone, Task)):
                continue
            name, key = model_name(model.spec), json.dumps(model.spec, sort_keys=True)
            try:
                with running(name, model.input.size, f"{where}.{role}"):
                    known[key] = known.get(key) or cost(model)
            except MarrowError as error:
                problems.append(str(error))
                models.pop(role, None)
                continue
            rows.append({"stage": stage.name, "verb": stage.verb, "role": role, "model": name, **known[key]._asdict()})
        fits = _check_needs(stage.verb, stage.stem, models, where, problems)
        made[stage.index] = made[stage.name] = _product(stage, models, where, problems) if fits else _unknown
        if stage.verb == "teach" and stage.probe:
            _check_probe(stage.probe, made, f"{where}.probe", problems)
    return problems, rows


def _check_probe(probe: Stage, made: dict, where: str, problems: list[str]) -> None:
    """What is known of the model that a stage trains must give what the probe that looks at it needs."""
    given, _ = _models(probe, made, where, problems)
    try:
        cls, model = contract_class("examine", probe.stem), made[probe.index]()
        cls(**probe.args)
        if not isinstance(model, nn.Module):
            raise MarrowError("the stage makes no model that a probe could look at")
        _check_needs("examine", probe.stem, watched_roles(cls, model, given), where, problems)
    except MarrowError as error:
        problems.append(_placed(_in_stage(error, probe, where), where))
    except _UnknownProduct:
        return


def _models(stage: Stage, made: dict, where: str, problems: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The models of a stage by role, and those of a method that one of them is, as "inner.student"."""
    models: dict[str, Any] = {}
    inner: dict[str, Any] = {}
    for role, spec in stage.roles.items():
        if "teach" in spec and not _inner_fits(role, spec, made, f"{where}.{role}", problems, inner):
            continue
        try:
            models[role] = resolve(spec, made, f"{where}.{role}", meta=True)
            check_kinds(stage.verb, stage.stem, models, where)
        except MarrowError as error:
            problems.append(_placed(error, f"{where}.{role}"))
            models.pop(role, None)
        except _UnknownProduct:
            continue
    return models, inner


def _inner_fits(role: str, spec: dict, made: dict, where: str, problems: list[str], inner: dict[str, Any]) -> bool:
    """Whether the models of a method inside a method give what it needs; they are added to `inner`."""
    known = signature("teach", spec["teach"])
    models = {}
    for name in known.roles if known else ():
        try:
            models[name] = resolve(spec[name], made, f"{where}.{name}", meta=True)
        except (MarrowError, _UnknownProduct):
            continue  # said where the method itself is built
    inner |= {f"{role}.{name}": model for name, model in models.items()}
    return _check_needs("teach", spec["teach"], models, where, problems)


class _UnknownProduct(Exception):
    """A model that only the run will know: a stage with a problem makes it, or one that exports a file."""


def _unknown() -> Any:
    raise _UnknownProduct


def _placed(error: MarrowError, where: str) -> str:
    """A model's error says its place in the recipe, or what it is about; then the place is put in front."""
    return str(error) if error.where.startswith("stages[") else f"{where}: {error}"


def _in_stage(error: MarrowError, stage: Stage, where: str) -> MarrowError:
    """ssld.temperature -> stages[1].args.temperature: a method knows its arguments, not its place in the recipe.

    What it builds of them, such as the `CropViews.crop` of its views, has them under their names.
    """
    name = error.where.removeprefix(stage.stem).rpartition(".")[2]
    known = signature(stage.verb, stage.stem)
    if known and name in known.arguments:
        where += f".{name}" if name in known.roles else f".args.{name}"
    return MarrowError(error.message, where=where, hint=error.hint)


def _check_needs(verb: str, stem: str, models: dict[str, Any], where: str, problems: list[str]) -> bool:
    known, before = signature(verb, stem), len(problems)
    for role, words in known.needs.items() if known else ():
        model = models.get(role)
        if isinstance(model, (Backbone, Task)) and (sentence := lacking(stem, role, words, model)):
            problems.append(f"{where}.{role}: {sentence}")
    return len(problems) == before


def lacking(stem: str, role: str, words: set[str], model: Backbone | Task) -> str:
    """The sentence about what `model` does not give of what is needed; empty when it gives everything."""
    given = model.gives
    if isinstance(model, Task):  # what its backbones say is there to be read, too
        given = given.union(*(m.gives for m in model.children() if isinstance(m, Backbone)))
    missing = sorted(words - given)
    if not missing:
        return ""
    wanted = " and ".join(f"'{w}'" for w in missing)
    hint = f" Try {SOURCES[missing[0]]}." if missing[0] in SOURCES else ""
    return f"{stem} needs {wanted} from {role}; {model_name(model.spec)} gives {', '.join(sorted(given))}.{hint}"


def _product(stage: Stage, models: dict[str, Any], where: str, problems: list[str]) -> Callable[[], Any]:
    """Makes what a later stage sees of this one; what its verb's class refuses is found by building it."""
    if set(models) != set(stage.roles):
        return _unknown
    if stage.verb == "teach":
        return _taught(stage, models, where, problems)
    try:
        carrying_out = contract_class(stage.verb, stage.stem)(**stage.args)
        if stage.verb != "shrink":
            return _unknown
        product = _shrunk(carrying_out, models)
    except MarrowError as error:
        problems.append(_placed(_in_stage(error, stage, where), where))
        return _unknown
    return lambda: deepcopy(product)


def _shrunk(shrinker: Shrinker, models: dict[str, Any]) -> Any:
    """What the shrinker will make, where shapes tell; where only the run does, its first model stands for that."""
    if not shrinker.by_shape:
        return next(iter(models.values()))
    with torch.device("meta"):
        return cut([deepcopy(m) for m in models.values()], shrinker.plan(models, None, None))


def _taught(stage: Stage, models: dict[str, Any], where: str, problems: list[str]) -> Callable[[], Any]:
    """As `_product`. The method and its optimisers are built on the meta device; what a method returns that owns its loop,
    nobody knows before."""
    try:
        with torch.device("meta"):
            method = contract_class("teach", stage.stem)(**models, **stage.args)
    except MarrowError as error:
        problems.append(str(_in_stage(error, stage, where)))
        return _unknown
    if type(method).fit is not Method.fit:
        return _unknown
    try:
        if "cached_views" in stage.values:
            _check_cached(method)
        build_optimizers(method, stage.settings())
    except MarrowError as error:
        problems.append(f"{where}.{error}")
    return lambda: _loaded(method.product())


def _check_cached(method: Method) -> None:
    """Raise when what its teachers say cannot be stored; an image method is asked about two images without content."""
    check_cached(method)
    if images := [m.input for m in method.modules() if isinstance(m, Backbone) and m.modality == "image"]:
        with torch.no_grad():
            empty = torch.empty(2, images[0].channels, *images[0].size, device="meta")
            widths(method.targets({"image": empty}))


def _loaded(product: Any) -> Any:
    """What a later stage reads back: a copy in which nothing is frozen any more."""
    copy = deepcopy(product)
    return copy.requires_grad_(True) if isinstance(copy, nn.Module) else copy


def model_name(spec: dict) -> str:
    """A spec tree in few words: classify(resnet18), drop_blocks(classify(resnet18))."""
    match spec:
        case {"source": source}:
            return source.removeprefix("timm:")
        case {"task": stem, **rest}:
            return f"{stem}({', '.join(model_name(v) for v in rest.values() if isinstance(v, dict))})"
        case {"edit": kind, "of": of}:
            return f"{kind}({', '.join(map(model_name, of))})"
        case {"part": part, "of": [of]}:
            return f"{model_name(of)}.{part}"
    return "?"
