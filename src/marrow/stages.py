"""Carrying out one stage of a recipe: open its data, build its models, call the verb, save the artifact."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import torch
import torch.distributed as dist

from .core import artifact
from .core.artifact import Artifact
from .core.catalogue import contract_class
from .core.contracts import Task
from .core.engine import Engine
from .core.errors import MarrowError
from .core.exact import preserved
from .core.loader import Data
from .core.models import resolve
from .core.recipe import Stage
from .core.spec import cut
from .core.versions import versions
from .core.watch import Watch
from .data import open_sources
from .data.masks import check_masks
from .ship import card
from .ship.licences import chain
from .stage_labels import check_learned, check_measured, sources

Stages = Mapping[int | str, Artifact]


def open_data(stage: Stage, where: str) -> Data:
    """The streams of a stage, and its validation source."""
    streams = {name: open_sources(sources, f"{where}.data.{name}") for name, sources in stage.streams.items()}
    val = streams.pop("val", None)
    return Data(streams, val, _watch(stage, f"{where}.probe"))


def _watch(stage: Stage, where: str) -> Watch | None:
    """The probe that looks at the model under training, without its other models."""
    if stage.verb != "teach" or (probe := stage.probe) is None:
        return None
    looking = contract_class("examine", probe.stem)(**probe.args)
    return Watch(looking, open_data(probe, where), stage.values["probe"]["every_percent"], where=where)


def key(stage: Stage, data: Data, done: Stages, seed: int) -> str:
    """Names what a stage would compute, a line for each part: recipe with parents, content of its data, version."""
    text = json.dumps([_with_hashes(stage.to_dict(), done), seed], sort_keys=True, default=str)
    parts = {
        "recipe": hashlib.sha256(text.encode()).hexdigest(),
        **{f"data.{name}": source.fingerprint() for name, source in sources(data)},
        "marrow": versions()["marrow"],
    }
    return "\n".join(f"{name} {value}" for name, value in parts.items())


def carry_out(
    stage: Stage, data: Data, done: Stages, engine: Engine, folder: Path, *, key: str, seed: int, where: str
) -> Artifact:
    """Do what the stage says and write its artifact into `folder`."""
    torch.manual_seed(seed)
    made = {k: a.load for k, a in done.items()}
    models = resolved(stage, made, where)
    if data.watch and stage.probe:
        with preserved():  # the method's own weights are drawn after it
            others = resolved(stage.probe, made, data.watch.where)
        data = dataclasses.replace(data, watch=dataclasses.replace(data.watch, models=others))
    if stage.verb == "teach":
        _fit_masks(models, data, where, engine)
    elif stage.verb == "examine":
        check_measured(models, data, where, contract_class("examine", stage.stem).hears_answers)
    else:
        check_measured(models, data, where)
    product, fill = VERBS[stage.verb](stage, models, data, engine, where)
    labels = _labels(product, models, data)
    if isinstance(product, Task):
        product.labels = labels
    metrics = []
    if data.val is not None and isinstance(product, Task):
        metrics = [{**row, "split": "val"} for row in engine.evaluate(product, data.val)]
    parents = [done[ref].hash if ref in done else Artifact.open(ref).hash for ref in _references(stage.roles)]
    if not dist.is_initialized() or dist.get_rank() == 0:
        artifact.save(
            folder, product, labels=labels, parents=parents, metrics=metrics, key=key, seed=seed, stage=stage.name,
            recipe=public(stage.to_dict()), licences=chain(stage.roles, _parents(stage, done)), fill=fill,
            finish=card.write,
        )  # fmt: skip
    together()
    return Artifact.open(folder)


def resolved(stage: Stage, made: Mapping[int | str, Callable[[], Any]], where: str) -> dict[str, Any]:
    """The models of a stage by role. made: what earlier stages made."""
    return {role: resolve(spec, made, f"{where}.{role}") for role, spec in stage.roles.items()}


def together() -> None:
    """Wait until every rank is here; nothing where there is one."""
    if dist.is_initialized():
        dist.barrier()


def _teach(stage: Stage, models: dict, data: Data, engine: Engine, where: str) -> tuple[Any, None]:
    method = contract_class("teach", stage.stem)(**models, **stage.args)
    ignored = check_learned(method, models, data, where)
    if data.watch:
        check_measured(models, data.watch.data, data.watch.where, data.watch.probe.hears_answers)
    remarks = method.remarks(data)
    if ignored:
        remarks.append(f"{stage.stem} does not use labels; those of {' and '.join(ignored)} are ignored")
    if engine.progress:
        for sentence in remarks:
            engine.progress.say(sentence)
    method.fit(engine, data)
    return method.product(), None


def _shrink(stage: Stage, models: dict, data: Data, engine: Engine, where: str) -> tuple[Any, Callable | None]:
    planned = contract_class("shrink", stage.stem)(**stage.args).plan(models, data, engine)
    return cut(list(models.values()), planned), partial(artifact.write_rows, planned.rows) if planned.rows else None


def _examine(stage: Stage, models: dict, data: Data, engine: Engine, where: str) -> tuple[Any, None]:
    return contract_class("examine", stage.stem)(**stage.args).run(models, data, engine), None


def _ship(stage: Stage, models: dict, data: Data, engine: Engine, where: str) -> tuple[dict, Callable[[Path], None]]:
    facts: dict[str, Any] = {}
    exporter = contract_class("ship", stage.stem)(**stage.args)

    def fill(folder: Path) -> None:
        facts.update(exporter.export(models, data, engine, folder))

    return facts, fill


VERBS: dict[str, Callable] = {"teach": _teach, "shrink": _shrink, "examine": _examine, "ship": _ship}


def public(value: Any) -> Any:
    """A stage as an artifact may show it: the names of files and folders without the way to them."""
    if isinstance(value, str) and value.startswith("hf:") and Path(value[3:]).is_dir():
        return f"hf:{Path(value[3:]).resolve().name}"
    if isinstance(value, Mapping):
        return {k: Path(v).name if k in ("images", "masks", "root", "artifact", "weights", "indices") and isinstance(v, str) else public(v)
                for k, v in value.items()}  # fmt: skip
    return [public(v) for v in value] if isinstance(value, (list, tuple)) else value


def _fit_masks(models: Mapping[str, Any], data: Data, where: str, engine: Engine) -> None:
    """Masks must have the size of their images and ids of the classes that a task of the stage was built for."""
    counts = {m.classes for m in models.values() if isinstance(m, Task) and "mask" in m.fields}
    for name, source in sources(data) if counts else ():
        if source.stored_mask(0) is not None:
            check_masks(source, max(counts), f"{where}.data.{name}", engine)
        elif name == "val":
            raise MarrowError("the images have no masks", where=f"{where}.data.val",
                              hint="Give 'masks: FOLDER', or parquet files with a column 'mask'.")  # fmt: skip


def _labels(product: Any, models: Mapping[str, Any], data: Data) -> list[str] | None:
    """Class names: those it was trained on, else the model's own, else the data's, else those of another model."""
    if any(isinstance(m, Task) and "mask" in m.fields for m in (product, *models.values())):
        names = [s.mask_classes for _, s in sources(data)]
        named = [*names, getattr(product, "labels", None), *(getattr(m, "labels", None) for m in models.values())]
        return next((list(n) for n in named if n), None)
    taught = [s.classes for s in data.streams.values() if len(s) and s.label(0) is not None]
    named = [*taught, getattr(product, "labels", None), *(s.classes for _, s in sources(data))]
    named += [getattr(m, "labels", None) for m in models.values()]
    return next((list(n) for n in named if n), None)


def _references(roles: Any) -> Iterator[Any]:
    """The earlier stages (by index or name) and artifact folders that model specs point to."""
    if isinstance(roles, Mapping):
        for k, v in roles.items():
            if k in ("stage", "artifact") and not isinstance(v, Mapping):
                yield v
            else:
                yield from _references(v)
    elif isinstance(roles, (list, tuple)):
        for v in roles:
            yield from _references(v)


def _parents(stage: Stage, done: Stages) -> list[Artifact]:
    return [done[ref] if ref in done else Artifact.open(ref) for ref in _references(stage.roles)]


def _with_hashes(value: Any, done: Stages) -> Any:
    """A stage with what it refers to replaced by the hash of its content."""
    if isinstance(value, Mapping):
        out: dict[Any, Any] = {}
        for k, v in value.items():
            if k == "stage" and v in done:
                out[k] = done[v].hash
            elif k == "artifact" and isinstance(v, str):
                out[k] = Artifact.open(v).hash
            elif k == "weights" and isinstance(v, str):
                out[k] = _digest(Path(v))
            elif k == "backbone" and isinstance(v, str) and v.startswith("hf:") and Path(v[3:]).is_dir():
                out[k] = {file.name: _digest(file) for file in sorted(Path(v[3:]).iterdir()) if file.is_file()}
            else:
                out[k] = _with_hashes(v, done)
        return out
    if isinstance(value, (list, tuple)):
        return [_with_hashes(v, done) for v in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _digest(file: Path) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
