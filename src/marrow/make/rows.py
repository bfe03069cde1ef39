"""What was measured as parts of report.json: rows, classes, layers, pictures."""

from __future__ import annotations

import io
from typing import Any, Mapping

from PIL import Image
from torch import Tensor

from ..core.cost import paired
from ..core.source import Source
from .compare import Score
from .measure import ROWS, Measured, Model
from .plan import Plan

THUMBNAILS = 12
NO_SCORE = {
    "answers": "the others are measured by how often they answer as it does",
    "features": "the others are measured by whether they find the same neighbours",
}


def rows(plan: Plan, found: Measured, ship: str) -> list[dict[str, Any]]:
    """The chain's rows in its order, missing ones with the reason; a student's file only where it is shipped or int8."""
    listed = []
    for name in ROWS:
        if name in found.models:
            if name != "student_fp32" or ship == name:
                listed.append(_row(plan, name, found.models[name], found.test.get(name), found.latency[name]))
        elif name in plan.missing:
            listed.append({"name": name, "kind": None, "metric": None, "value": None, "reason": plan.missing[name]})
    return listed


def _row(plan: Plan, name: str, model: Model, score: Score | None, latency: dict | str) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "kind": model.net, "metric": plan.metric, "value": None}
    if score:
        row |= {"value": score.value, "n": score.n, "split": "test", "ci95": list(score.ci95), "more": score.more}
    else:
        row["reason"] = NO_SCORE[plan.case.kind]
    row |= {"params": model.cost.params, "macs": model.cost.macs, "bytes": model.bytes, "parity": model.parity}
    if isinstance(latency, str):
        return {**row, "latency_ms": None, "reason": latency}
    return {**row, "latency_ms": latency}


def per_class(scores: Mapping[str, Score], ship: str, classes: list[str] | None) -> list[dict[str, Any]]:
    """How many images of each class are answered right, by the teacher where it is measured, the student and the file."""
    shown = [n for n in dict.fromkeys(("teacher", "baseline", "student", ship)) if n in scores]
    matrices = {name: scores[name].confusion for name in shown}
    if not classes or any(m is None for m in matrices.values()):
        return []
    listed = []
    for i, name in enumerate(classes):
        counts = {n: (int(m[i, i]), int(m[i].sum())) for n, m in matrices.items() if m is not None}
        n = counts[ship][1]
        listed.append(
            {"class": name, "n": n, "recall": {k: right / n if n else None for k, (right, _) in counts.items()}}
        )
    return listed


def layers(models: Mapping[str, Model]) -> dict[str, Any] | None:
    """What pruning took from each layer."""
    if "pruned" not in models:
        return None
    return {"of": ["student", "pruned"], "rows": paired(models["student"].thing, models["pruned"].thing)}


def confusion(scores: Mapping[str, Score], ship: str, classes: list[str] | None) -> dict[str, Any] | None:
    matrix = scores[ship].confusion
    return None if matrix is None or not classes else {"of": ship, "labels": classes, "counts": matrix.tolist()}


def thumbnails(
    scores: Mapping[str, Score], ship: str, source: Source, classes: list[str] | None
) -> list[dict[str, Any]]:
    """Test images that the teacher gets right and the small one wrong; without labels, where the two differ."""
    small, big = scores[ship], scores.get("teacher")
    if small.answers is None or small.wanted is None or not classes:
        return []
    said = small.wanted if big is None or big.answers is None else big.answers
    which = ((said == small.wanted) & (small.answers != small.wanted)).nonzero().flatten()[:THUMBNAILS]
    return [{"png": _png(source[i]["image"]), "label": classes[small.wanted[i]] if big else None,
             "teacher": classes[said[i]], "student": classes[small.answers[i]]} for i in which.tolist()]  # fmt: skip


def _png(image: Tensor) -> bytes:
    file = io.BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    picture.thumbnail((112, 112))
    picture.save(file, "png")
    return file.getvalue()
