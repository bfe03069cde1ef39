"""The first pass over a recipe: everything that can be said without torch, in well under two seconds.

Keys, types, stems, roles and arguments (against signatures read from source text), streams, references between
stages, paths, ranges of numbers, missing extras. The second pass is `core/fit_check.py`.
"""

from __future__ import annotations

import os
import re
from itertools import chain, islice
from pathlib import Path
from typing import Any, Iterator, Mapping, Sequence

from . import plain_json
from .catalogue import CONTRACTS, VERBS, class_node, stems
from .errors import MOST_PROBLEMS, MarrowError, near
from .extras import missing_for
from .signature import REQUIRED, Argument, Signature, check_values, signature
from .source_check import check_data
from .stage_keys import STAGE_KEYS, TRAINING, check_training, check_watch, is_whole

RESERVED = ("logs", "checkpoints", "cache")
# Device names of Windows, where a folder cannot be called so, with or without an ending.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
LONGEST_NAME = 100
# The most that a number under a key may be; seeds and salts are hashed, so they may be any 64 bits.
LARGEST = {"steps": 10**9, "epochs": 10**6, "examples": 10**12, "batch": 2**20, "micro_batch": 2**20, "accumulate": 2**20,
           "workers": 256, "budget": 10**15, "img_size": 2**14, "classes": 2**20, "seed": 2**63 - 1, "salt": 2**63 - 1}  # fmt: skip
LARGEST_OF_ALL = 10**9
PATHS = ("images", "masks", "root", "indices", "artifact", "weights")


def check_static(recipe: Any, base: Path = Path()) -> list[str]:
    """All problems of a recipe (a `Recipe` or its mapping), each saying where. Paths are relative to `base`."""
    values = recipe if isinstance(recipe, Mapping) else recipe.to_dict()
    if unusable := list(islice(_unusable(values), MOST_PROBLEMS)):
        return unusable
    return list(islice(chain(_check(values, base), _beyond(values)), MOST_PROBLEMS))


def _check(values: Mapping[str, Any], base: Path) -> Iterator[str]:
    for key in values:
        if key not in ("seed", "stages"):
            yield f"{key}: unknown key '{key}'{near(key, ('seed', 'stages'))}"
    if not (is_whole(seed := values.get("seed", 0)) and seed >= 0):
        yield f"seed: a whole number of at least 0 is needed, got {seed!r}"
    stages = values.get("stages")
    if not isinstance(stages, list) or not stages:
        yield "stages: a list of stages is needed" + (f", got {stages!r}" if stages is not None else "")
        return
    names: list[str] = []
    for i, stage in enumerate(stages):
        where = f"stages[{i}]"
        if not isinstance(stage, Mapping):
            yield f"{where}: a stage is a mapping such as {{teach: supervised, ...}}, got {stage!r}"
        else:
            yield from _StageCheck(stage, where, stages[:i], base).problems()
            yield from _check_name(stage, names, where)
        names.append(stage.get("name", "") if isinstance(stage, Mapping) else "")


def _unusable(value: Any, where: str = "") -> Iterator[str]:
    """Texts that no file system can be asked about; nothing else is looked at while there is one."""
    if isinstance(value, (Mapping, list, tuple)):
        for name, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            place = f"[{name}]" if not isinstance(value, Mapping) else f".{name}" if where else str(name)
            yield from _unusable(inner, where + place)
    elif isinstance(value, str) and "\0" in value:
        yield f"{where}: a text without the character 0 is needed, got {value!r}"
    elif isinstance(value, str) and where.endswith(PATHS) and max(map(len, os.fsencode(value).split(b"/"))) > 255:
        yield f"{where}: no file has so long a name: {value!r}"


def _beyond(value: Any, where: str = "", key: str = "") -> Iterator[str]:
    """Numbers that no training has, wherever they stand: they would fill the memory or never end."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _beyond(inner, f"{where}.{name}" if where else str(name), key if key == "batch" else str(name))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _beyond(inner, f"{where}[{i}]", key)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if not abs(value) <= (most := LARGEST.get(key, LARGEST_OF_ALL)):
            yield f"{where}: a number of at most {most:,} is needed, got {value!r}"


def _check_name(stage: Mapping[str, Any], names: Sequence[str], where: str) -> Iterator[str]:
    name = stage.get("name", "a")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name) or name in RESERVED:
        yield f"{where}.name: a folder name of small letters, digits and '-' is needed, got {name!r}"
    elif name.partition(".")[0] in DEVICES or name.endswith(".") or len(name) > LONGEST_NAME:
        yield f"{where}.name: a folder cannot be called {name!r} everywhere; another name is needed"
    elif "name" in stage and name in names:
        yield f"{where}.name: '{name}' is also the name of stages[{names.index(name)}]"


class _StageCheck:
    """One stage, with the stages before it. inside: it is the probe of another, whose model it looks at."""

    def __init__(self, stage: Mapping[str, Any], where: str, earlier: Sequence[Any], base: Path, inside: bool = False):
        self.stage, self.where, self.earlier, self.base, self.inside = stage, where, earlier, base, inside

    def problems(self) -> Iterator[str]:
        verbs = [v for v in VERBS if v in self.stage]
        if len(verbs) != 1:
            got = " and ".join(verbs) or ("none" + near_verb(self.stage))
            yield f"{self.where}: a stage has exactly one of {', '.join(VERBS)}; got {got}"
            return
        verb, stem = verbs[0], self.stage[verbs[0]]
        known = signature(verb, stem) if isinstance(stem, str) else None
        if known is None:
            yield f"{self.where}.{verb}: {unknown_stem(verb, stem)}"
        if verb == "teach":
            players, owns_loop = (known.players, known.owns_loop) if known else (("main",), False)
            yield from check_training(self.stage, players, self.where, owns_loop=owns_loop)
            yield from self._check_probe(owns_loop)
        if "data" in self.stage:
            yield from check_data(self.stage["data"], known.streams if known else None, f"{self.where}.data", self.base)
        if known is None:
            return
        for sentence in missing_for(verb, stem):
            yield f"{self.where}.{verb}: {sentence}"
        yield from self._check_keys(verb, known)
        yield from self._check_data(known)
        args = self.stage.get("args", {})
        if isinstance(args, Mapping):
            yield from check_values(args, known.values, known.name, f"{self.where}.args")
        else:
            yield f"{self.where}.args: a mapping is needed, got {args!r}"
        yield from self._check_roles(self.stage, known, self.where, verb)

    def _check_probe(self, owns_loop: bool) -> Iterator[str]:
        if not isinstance(probe := self.stage.get("probe"), Mapping):
            return
        where = f"{self.where}.probe"
        if owns_loop:
            yield f"{where}: {self.stage['teach']} has a loop of its own, in which no probe looks on"
        if "examine" not in probe:
            yield f"{where}: a probe says what it examines, such as {{examine: knn, every_percent: 10, data: {{...}}}}"
            return
        yield from check_watch(probe, where)
        stage = {k: v for k, v in probe.items() if k not in ("every_percent", "name", "probe")}
        yield from _StageCheck(stage, where, self.earlier, self.base, inside=True).problems()

    def _check_keys(self, verb: str, known: Signature) -> Iterator[str]:
        usual = {"name", "args", "data", verb, *known.roles, *(TRAINING if verb == "teach" else ())}
        for key in self.stage:
            if key in usual:
                continue
            if key in known.values:
                yield f"{self.where}.{key}: '{key}' is an argument of {known.name}; it belongs under args"
            elif key in STAGE_KEYS:
                yield f"{self.where}.{key}: '{key}' is for teach stages"
            else:
                yield f"{self.where}.{key}: unknown key '{key}'{near(key, usual)}"

    def _check_data(self, known: Signature) -> Iterator[str]:
        data = self.stage.get("data")
        if known.streams and data is None:
            yield f"{self.where}: {known.name} needs data with {', '.join(known.streams)}"
        if "teach" in self.stage and not known.streams and any(k in self.stage for k in ("epochs", "examples")):
            yield f"{self.where}: {known.name} reads no data; give steps"
        if isinstance(data, Mapping):
            if "evaluate_percent" in self.stage and "val" not in data:
                yield f"{self.where}.evaluate_percent: data.val is needed to measure on"
            if "accumulate" in self.stage and isinstance(data.get("batch"), Mapping):
                yield f"{self.where}.accumulate: with one batch per stream, give micro_batch"

    def _check_roles(self, given: Mapping[str, Any], known: Signature, where: str, verb: str) -> Iterator[str]:
        for role, argument in known.roles.items():
            if role in given:
                yield from self._check_model(given[role], argument, f"{where}.{role}", verb)
            elif argument.default is REQUIRED and not (self.inside and given is self.stage):
                yield f"{where}: {known.name} needs a model as '{role}'"

    def _check_model(self, spec: Any, role: Argument, where: str, verb: str) -> Iterator[str]:
        """A model spec of a recipe; `verb` decides whether an exported file may stand there."""
        match spec:
            case {"teach": stem, **rest}:  # before the others: "task" may be a role of the method
                yield from self._check_made("teach", stem, rest, where, verb)
                yield from _check_kind("Method", role, where)
            case {"task": stem, **rest}:
                yield from self._check_made("tasks", stem, rest, where, verb)
                yield from _check_kind("Task", role, where)
            case {"backbone": name, **rest}:
                if not isinstance(name, str):
                    yield f"{where}.backbone: the name of a backbone is needed, got {name!r}"
                elif name.startswith("hf:"):
                    for sentence in missing_for("core", "hf_backbone"):
                        yield f"{where}.backbone: {sentence}"
                yield from _check_kind("Backbone", role, where)
                weights = rest.get("weights")
                if weights is not None and not (isinstance(weights, str) and (self.base / weights).is_file()):
                    yield f"{where}.weights: no weight file at {weights!r}"
            case {"edit": kind, "of": [*parents], **rest} if parents:
                yield from _check_edit(kind, rest, where)
                for i, parent in enumerate(parents):
                    yield from self._check_model(parent, Argument("Backbone | Task"), f"{where}.of[{i}]", verb)
            case {"artifact": path, **rest}:
                yield from _check_part(rest, where)
                yield from self._check_artifact(path, rest, role, where, verb)
            case {"stage": reference, **rest}:
                yield from _check_part(rest, where)
                yield from self._check_reference(reference, where, verb)
            case _:
                yield f"{where}: a model is one of {{backbone: ...}}, {{task: ...}}, {{artifact: ...}}, " \
                      f"{{stage: ...}}, {{edit: ..., of: [...]}}; got {spec!r}"  # fmt: skip

    def _check_made(self, folder: str, stem: Any, rest: Mapping, where: str, verb: str) -> Iterator[str]:
        known = signature(folder, stem) if isinstance(stem, str) else None
        if known is None:
            yield f"{where}.{'task' if folder == 'tasks' else 'teach'}: {unknown_stem(folder, stem)}"
            return
        for sentence in missing_for(folder, stem):
            yield f"{where}: {sentence}"
        plain = {k: v for k, v in rest.items() if k not in known.roles}
        yield from check_values(plain, known.values, known.name, where)
        yield from self._check_roles(rest, known, where, verb)

    def _check_artifact(self, path: Any, rest: Mapping, role: Argument, where: str, verb: str) -> Iterator[str]:
        file = self.base / str(path) / "artifact.json"
        if not file.is_file():
            yield f"{where}.artifact: no artifact at '{path}'; an artifact is a folder with artifact.json"
            return
        try:
            about = plain_json.read(file, f"{where}.artifact", plain_json.LARGEST_META)
        except MarrowError as error:
            yield f"{where}.artifact: {path}/{error.message}"
            return
        kind = about.get("kind") if isinstance(about, Mapping) else None
        if kind not in ("backbone", "task", "data", "report", "runtime"):
            yield f"{where}.artifact: {path}/artifact.json names no known kind"
            return
        if kind in ("data", "report") or (kind == "runtime" and verb in ("teach", "shrink")):
            yield f"{where}.artifact: '{path}' is of kind {kind}; {verb} needs a model that can be trained"
        elif kind == "task" and "Task" not in role.kinds and "part" not in rest:
            yield f"{where}.artifact: '{path}' is a task, a backbone is needed; add part: backbone"
        elif kind == "backbone" and role.kinds == {"Task"}:
            yield f"{where}.artifact: '{path}' is a backbone, a task is needed: {{task: classify, backbone: ...}}"

    def _check_reference(self, reference: Any, where: str, verb: str) -> Iterator[str]:
        names = [s.get("name") for s in self.earlier if isinstance(s, Mapping)]
        if is_whole(reference) and 0 <= reference < len(self.earlier):
            stage = self.earlier[reference]
        elif isinstance(reference, str) and reference in names:
            stage = next(s for s in self.earlier if isinstance(s, Mapping) and s.get("name") == reference)
        else:
            known = [str(i) for i in range(len(self.earlier))] + [n for n in names if n]
            none = "; there is no stage before this one"
            yield f"{where}.stage: no earlier stage {reference!r}{near(str(reference), known) if known else none}"
            return
        if isinstance(stage, Mapping) and ("examine" in stage or ("ship" in stage and verb in ("teach", "shrink"))):
            made = "a report" if "examine" in stage else "an exported file"
            yield f"{where}.stage: stage {reference!r} makes {made}; {verb} needs a model that can be trained"


def _check_kind(kind: str, role: Argument, where: str) -> Iterator[str]:
    if kind not in role.kinds and "nn.Module" not in role.kinds:
        wanted = " or ".join(sorted(role.kinds))
        example = {"Task": "{task: classify, backbone: ..., classes: 10}", "Backbone": "{backbone: resnet18}"}
        more = f" such as {example[wanted]}" if wanted in example else ""
        yield f"{where}: a {wanted}{more} is needed, got a {kind}"


def _check_edit(kind: Any, rest: Mapping[Any, Any], where: str) -> Iterator[str]:
    if not (isinstance(kind, str) and kind.isidentifier() and class_node("shrink", kind, "Edit")):
        yield f"{where}.edit: {kind!r} is no edit; a file of shrink/ such as cat defines one"
    for key, value in rest.items():
        if key != "values":
            yield f"{where}.{key}: unknown key '{key}'{near(key, ('values',))}"
        elif not isinstance(value, Mapping):
            yield f"{where}.values: a mapping is needed, got {value!r}"


def _check_part(rest: Mapping[Any, Any], where: str) -> Iterator[str]:
    for key, value in rest.items():
        if key != "part":
            yield f"{where}.{key}: unknown key '{key}'{near(key, ('part',))}"
        elif not isinstance(value, str):
            yield f"{where}.part: the name of a part is needed, got {value!r}"


def unknown_stem(folder: str, stem: Any) -> str:
    """The sentence about a stem that its folder does not have."""
    kind = CONTRACTS[folder].lower()
    if not isinstance(stem, str):
        return f"the name of a {kind} is needed, got {stem!r}"
    if elsewhere := next((f for f in CONTRACTS if f != folder and stem in stems(f)), None):
        return f"'{stem}' is not a {kind}; it stands under {elsewhere}"
    return f"unknown {kind} '{stem}'{near(stem, stems(folder))}"


def near_verb(stage: Mapping[str, Any]) -> str:
    """The closest verb to any key of a stage without one."""
    suggestions = [near(key, VERBS) for key in stage]
    return next((s for s in suggestions if "did you mean" in s), "")
