"""`marrow run`: a recipe from the first stage to the last, each an artifact, reused when nothing it depends on changed."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Mapping

from .core.artifact import Artifact
from .core.catalogue import contract_class
from .core.engine import Engine
from .core.errors import Interrupted, MarrowError
from .core.fit_check import check_fit
from .core.loader import Data
from .core.loggers import CsvLogger
from .core.progress import Progress
from .core.recipe import Recipe, Stage, read
from .core.static_check import check_static
from .data import open_source
from .run_folder import RunFolder
from .stage_labels import different
from .stages import carry_out, key, open_data, together


def run(
    recipe: Recipe | Mapping[str, Any] | Path | str,
    out: Path | str | RunFolder | None = None,
    *,
    resume: bool = False,
    allow_changed: bool = False,
    device: str = "auto",
    devices: int | None = None,
    overrides: tuple[str, ...] = (),
    quiet: bool = False,
    after: Callable[[Stage, Artifact, dict | None], None] | None = None,
) -> list[Artifact]:
    """Check a recipe, then carry out its stages in `out`; returns one artifact a stage.

    out: default `runs/` + the recipe's name; a RunFolder is one that the caller owns already. devices: the processes on this
    machine, default as many as torchrun or `marrow run --devices` started. after: called after every stage with its
    artifact and the engine's history (None when the stage was reused). Raises MarrowError before anything is written if something does not fit.
    """
    name = Path(recipe).stem if isinstance(recipe, (str, Path)) else "recipe"
    recipe = _recipe(recipe, overrides)
    problems = check_static(recipe) or check_fit(recipe)[0]
    if problems:
        raise MarrowError.listing(problems, "the recipe")
    processes = devices or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    owner = os.environ.get("RANK", "0") == "0"
    if owned := isinstance(out, RunFolder):
        folder = out
    else:
        path = Path(out) if out is not None else Path("runs") / name
        folder = RunFolder(path, recipe, resume=resume, allow_changed=allow_changed, owner=owner)
    data = [open_data(stage, f"stages[{i}]") for i, stage in enumerate(recipe.stages)]

    def engine_of(stage: Stage, left_to_do: bool) -> Engine:
        return Engine(
            stage.settings(recipe.seed), device=device, devices=processes,
            logger=CsvLogger(folder.log(stage.name)) if owner and left_to_do else None,
            checkpoint=folder.checkpoints / f"{stage.name}.pt", progress=None if quiet else Progress(stage.name),
            resume=resume, allow_changed=allow_changed, cache=folder.cache,
        )  # fmt: skip

    done: dict[int | str, Artifact] = {}
    with nullcontext() if owned else folder:
        folder.begin()
        for i, stage in enumerate(recipe.stages):
            seed = stage.seed(recipe.seed)
            wanted = key(stage, data[i], done, seed)
            artifact, history = _finished(folder.path / stage.name, wanted, allow_changed), None
            engine = engine_of(stage, artifact is None)
            together()  # so that no rank finds what another is just about to write
            if artifact is None:
                try:
                    artifact = carry_out(stage, data[i], done, engine, folder.path / stage.name, key=wanted,
                                         seed=seed, where=f"stages[{i}]")  # fmt: skip
                except Interrupted:
                    again = ["marrow", "run", str(folder.path / "recipe.yaml"), "--out", str(folder.path), "--resume"]
                    raise Interrupted(shlex.join(again)) from None
                finally:
                    if engine.logger:
                        engine.logger.close()
                history = engine.history
            folder.clear(stage.name)
            done[i] = done[stage.name] = artifact
            if after:
                after(stage, artifact, history)
    return [done[i] for i in range(len(recipe.stages))]


def _finished(folder: Path, key: str, allow_changed: bool) -> Artifact | None:
    """The artifact that an earlier run left in `folder`, if it is what this run would make."""
    if not (folder / "artifact.json").is_file():
        return None
    try:
        found = Artifact.open(folder)
    except MarrowError as damage:
        raise MarrowError(damage.message, where=damage.where, hint="Delete that folder to make it again.") from None
    if found.meta["key"] == key:
        return found
    if not allow_changed:
        other = sorted({line.split()[0] for line in set(key.splitlines()) - set(str(found.meta["key"]).splitlines())})
        raise MarrowError(f"since it was made, {' and '.join(other)} changed", where=str(folder),
                          hint="Give --allow-changed to make it again.")  # fmt: skip
    return None


def evaluate(artifact: Artifact | Path | str, source: Mapping[str, Any], *, device: str = "auto") -> list[dict]:
    """Rows of the artifact's own metric on a source (a mapping as in recipes)."""
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    _runs(artifact)
    opened = open_source(source, "--data")
    model = artifact.load()
    if "label" in model.fields and (not len(opened) or opened.label(0) is None):
        raise MarrowError("these images have no labels, so nothing can be measured", where="--data")
    labels = artifact.meta["labels"]
    classes = opened.mask_classes if "mask" in model.fields else opened.classes
    if labels and classes and not model.open_classes and (found := different(labels, list(classes))):
        raise MarrowError(f"the data's classes are not the model's: {found}", where="--data")
    return Engine(device=device).evaluate(model, opened)


def export(artifact: Artifact | Path | str, format: str, out: Path | str, *, data: Mapping[str, Any]) -> Artifact:
    """Ship a task artifact by the exporter `format` (a stem of `ship/`); `data` checks and calibrates it."""
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    cls = contract_class("ship", format, "--format")
    role = next(iter(cls.needs))
    streams = {stream: [dict(data)] for stream in cls.streams}
    stage = {"ship": format, "name": Path(out).name, role: {"artifact": str(artifact.path)}, "data": streams}
    with_stage = Recipe.from_dict({"seed": 0, "stages": [stage]})
    if problems := check_static(with_stage):
        raise MarrowError.listing(problems, "the export")
    stage = with_stage.stages[0]
    opened = open_data(stage, "--data")
    engine = Engine(stage.settings(0), device="cpu")
    return carry_out(stage, opened, {}, engine, Path(out), key=key(stage, opened, {}, 0), seed=0, where="export")


def examine(stem: str, artifact: Artifact | Path | str, data: Mapping[str, Any] | None = None) -> Any:
    """The Report of a probe on one artifact. A probe of several streams, train and test, gets a split of `data` for each."""
    artifact = artifact if isinstance(artifact, Artifact) else Artifact.open(artifact)
    cls = contract_class("examine", stem, "PROBE")
    if len(cls.needs) > 1:
        raise MarrowError(f"{stem} compares {len(cls.needs)} models ({', '.join(sorted(cls.needs))}); a recipe can name them",
                          where="examine")  # fmt: skip
    if cls.streams and data is None:
        raise MarrowError(f"{cls.__name__} reads {', '.join(cls.streams)}", where="--data")
    splits = {s: cls.splits.get(s, s) for s in cls.streams} if len(cls.streams) > 1 else {}
    if splits and "split" in (data or {}):
        raise MarrowError(
            f"{stem} compares the splits {' and '.join(splits.values())}, so none is chosen", where="--split"
        )
    chosen = {stream: {"split": splits[stream]} if splits else {} for stream in cls.streams}
    streams = {stream: open_source({**(data or {}), **split}, "--data") for stream, split in chosen.items()}
    return cls().run({next(iter(cls.needs)): artifact.load()}, Data(streams), Engine())


def _recipe(recipe: Recipe | Mapping[str, Any] | Path | str, overrides: tuple[str, ...]) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return Recipe.from_dict(recipe) if isinstance(recipe, Mapping) else read(Path(recipe), overrides)


def _runs(artifact: Artifact) -> None:
    if artifact.kind not in ("task", "runtime"):
        raise MarrowError(f"a {artifact.kind} artifact gives no answers to measure; a task or runtime artifact does",
                          where=str(artifact.path))  # fmt: skip
