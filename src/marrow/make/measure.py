"""The rows of a report: every model of a run on the same test images, every file in its real runtime."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Mapping

from ..core import artifact as artifacts
from ..core.artifact import Artifact
from ..core.contracts import Backbone
from ..core.cost import Cost, cost
from ..core.engine import Engine
from ..core.errors import MarrowError
from ..core.models import resolve, task
from ..core.source import Source
from ..data import open_source
from ..run import export
from ..ship.bench import bench
from ..ship.parity import spread
from . import compare
from .budgets import Candidate
from .compare import Score
from .plan import Plan

ROWS = ("teacher", "baseline", "student", "pruned", "int8", "fp32", "student_int8", "student_fp32", "compare", "compare_int8")  # fmt: skip
# The row of a torch model -> the exported file that its latency is measured with. The baseline is the student's network.
TIMED_BY = {"baseline": "student_fp32", "student": "student_fp32", "pruned": "fp32", "compare": "compare_fp32"}
SHIPPABLE = ("int8", "fp32", "student_int8", "student_fp32")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of a run: a module or a Runner, with what a table says about it. net: the name of its network."""

    thing: Any
    net: str
    bytes: int
    cost: Cost
    parity: str | None = None


@dataclasses.dataclass(frozen=True)
class Measured:
    """Everything that was measured, by row. test, val: scores; the teacher has none where the others are compared with
    it. latency: a row of `ship.bench`, or why there is none.
    """

    models: Mapping[str, Model]
    test: Mapping[str, Score]
    val: Mapping[str, Score]
    latency: Mapping[str, dict | str]

    def candidates(self) -> list[Candidate]:
        """The files that may be shipped, with what each loses against the teacher on validation images."""
        found = []
        for name in SHIPPABLE:
            if name in self.models:
                time = self.latency[name]
                assert isinstance(time, dict)  # a file that the chain exported ran when it was checked
                found.append(Candidate(name, time["median"], self.models[name].bytes, drop(self.val, name)))
        return found


def drop(scores: Mapping[str, Score], name: str) -> float | None:
    """Points that a model loses against the teacher; its agreement with it says the same without labels."""
    if (score := scores.get(name)) is None:
        return None
    return 100 * ((scores["teacher"].value if "teacher" in scores else 1.0) - score.value)


def measure(plan: Plan, stages: Mapping[str, Artifact], out: Path, device: str) -> Measured:
    """Run every model on the test images, those that may be shipped on the validation images too, and time all files.

    out: the run's folder; files exported only to be timed are kept in its `timed/`.
    """
    engine = Engine(device=device)
    teacher = stages["teacher"] if "teacher" in stages else _given(plan)
    models = {name: _model(found, stages) for name, found in {"teacher": teacher, **stages}.items() if name in ROWS}
    test = _scores(plan, models, _source(plan, plan.test, "test"), engine)
    val: dict[str, Score] = {}
    if plan.case.kind != "features":  # sharing neighbours is no accuracy that a file could lose
        kept = {name: m for name, m in models.items() if name in ("teacher", *SHIPPABLE)}
        val = _scores(plan, kept, _source(plan, plan.val, "val"), engine)
    return Measured(models, test, val, _latencies(stages, teacher, models, out, _parity(plan)))


def _source(plan: Plan, given: Mapping[str, Any], split: str) -> Source:
    return open_source({**given, **({} if plan.case.kind == "labels" else {"labels": False})}, f"--{split}")


def _scores(plan: Plan, models: Mapping[str, Model], source: Source, engine: Engine) -> dict[str, Score]:
    wanted = {name: m.thing for name, m in models.items() if name != "teacher"}
    teacher = models["teacher"].thing
    if plan.case.kind == "features":
        reference = spread(_source(plan, plan.train, "data"), compare.REFERENCE, without=source)
        neighbours = compare.Neighbours(teacher, reference, source, engine)
        return {name: neighbours.score(thing) for name, thing in wanted.items()}
    classes = len(plan.case.classes or ())
    if plan.case.class_map:
        teacher = compare.Mapped(teacher, plan.case.class_map, classes)
    said, labels = compare.answers(teacher, source, engine)
    found = {} if labels is None else {"teacher": compare.by_answers(plan.metric, said, labels, classes)}
    truth = said if labels is None else labels
    for name, thing in wanted.items():
        found[name] = compare.by_answers(plan.metric, compare.answers(thing, source, engine)[0], truth, classes)
    return found


def _given(plan: Plan) -> Any:
    """The teacher that no stage made: an artifact, or a module."""
    spec = plan.teacher or {}
    return Artifact.open(spec["artifact"]) if set(spec) == {"artifact"} else resolve(spec, {}, "--teacher")


def _model(found: Any, stages: Mapping[str, Artifact]) -> Model:
    if not isinstance(found, Artifact):
        network = cost(found)
        return Model(found, net(found.spec), network.bytes, network)
    thing, runtime = found.load(), found.meta["runtime"]
    file = "model.onnx" if runtime else "weights.safetensors"
    size = (found.path / file).stat().st_size
    if not runtime:
        return Model(thing, net(found.meta["spec"]), size, cost(thing))
    parent = next(a for a in stages.values() if a.hash in found.meta["parents"])
    return Model(thing, f"ONNX file, {runtime['precision']}", size, cost(parent.load()), agreement(runtime["parity"]))


def net(spec: Mapping[str, Any]) -> str:
    """The name of the network at the bottom of a spec tree."""
    if "source" in spec:
        return str(spec["source"]).partition(":")[2]
    return net(next(v for v in (spec.get("backbone"), *spec.get("of", [])) if v))


def agreement(parity: Mapping[str, Any]) -> str:
    """How an exported file compares with its model, for a report."""
    same = "" if parity["agreement"] is None else f"{parity['agreement']:.1%} of "
    answer = f"{same}{parity['n']} validation images" + (" get the same answer" if same else "")
    return f"{answer}, outputs differ by {parity['max_abs']:.2g} at most"


def _latencies(
    stages: Mapping[str, Artifact], teacher: Any, models: Mapping[str, Model], out: Path, parity: Mapping[str, Any]
) -> dict[str, dict | str]:
    """A row of the bench for every model, all files in turns in one sitting."""
    files = {name: a for name, a in stages.items() if a.kind == "runtime"}
    refused = ""
    try:
        files["teacher"] = _timed(teacher, out / "timed" / "teacher", parity)
    except MarrowError as error:  # the file serves for nothing but its time
        refused = f"it cannot be exported: {error.message}"
    rows = dict(zip(files, bench(list(files.values()), threads=1)))
    by = TIMED_BY if "student_fp32" in files else {**TIMED_BY, "baseline": "fp32", "student": "fp32"}
    return {name: rows.get(by.get(name, name), refused) for name in models}


def _timed(model: Any, folder: Path, parity: Mapping[str, Any]) -> Artifact:
    """The model as an ONNX file; one that an earlier call made is taken if it came from the same weights."""
    with TemporaryDirectory() as place:
        if not isinstance(model, Artifact):
            model = artifacts.save(
                Path(place) / "teacher", task("embed", backbone=model) if isinstance(model, Backbone) else model
            )
        elif model.kind == "backbone":
            model = artifacts.save(Path(place) / "teacher", task("embed", backbone=model.load()))
        if (folder / "artifact.json").is_file() and Artifact.open(folder).meta["parents"] == [model.hash]:
            return Artifact.open(folder)
        return export(model, "onnx", folder, data=parity)


def _parity(plan: Plan) -> dict[str, Any]:
    return next(s for s in plan.recipe["stages"] if s.get("ship") == "onnx")["data"]["parity"][0]
