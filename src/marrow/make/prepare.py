"""Before a run: the plan, what had to be measured for it, and what it will take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..core.errors import MarrowError
from ..core.fit_check import check_fit
from ..core.recipe import Recipe
from ..core.static_check import check_static
from ..run_folder import outside, writable
from . import lengths, notes, students
from .estimate import Estimate, as_text, estimate, rescaled, scaled
from .plan import Plan, plan
from .wishes import Wishes


@dataclasses.dataclass(frozen=True)
class Prepared:
    """noted: what `plan.json` will hold. before: whether it held that already."""

    plan: Plan
    out: Path
    estimate: Estimate
    noted: dict[str, Any]
    before: bool = False


def prepare(wishes: Wishes, out: Path | None, *, again: bool = False) -> Prepared:
    """The plan of a call: as it was noted in its folder, or measured now. again: measured in any case."""
    first = plan(wishes)
    out = out or Path("runs") / first.name
    writable(out)
    outside(out, (Path(p) for p in (wishes.data, wishes.val, wishes.test, wishes.unlabelled) if p and Path(p).is_dir()))
    noted = {} if again else notes.read(out, wishes)
    if noted:
        return _as_noted(wishes, out, noted)
    recipe = Recipe.from_dict(first.recipe)
    if problems := check_static(recipe) or check_fit(recipe)[0]:
        raise MarrowError.listing(problems, "the plan")
    chosen, measured = _with_student(wishes, first)
    found = estimate(chosen.recipe, device=wishes.device)
    if wishes.budgets.minutes:
        wishes, chosen, found = _within(wishes, chosen, found, measured)
    noted = {"key": notes.key(wishes), "student": measured, "skip": list(wishes.skip), "steps": _steps(chosen),
             "choices": chosen.choices, "estimate": dataclasses.asdict(found)}  # fmt: skip
    return Prepared(chosen, out, found, noted)


def described(ready: Prepared) -> dict[str, Any]:
    """A plan as `--dry-run` prints it."""
    recipe = Recipe.from_dict(ready.plan.recipe)
    stages = [{"stage": s.name, "verb": s.verb, "what": s.stem, "steps": s.values.get("steps")} for s in recipe.stages]
    return {"name": ready.plan.name, "out": str(ready.out), "data": ready.plan.data, "stages": stages,
            "choices": ready.plan.choices, "estimate": as_json(ready.estimate), "takes": as_text(ready.estimate),
            "recipe": recipe.to_yaml()}  # fmt: skip


def as_json(found: Estimate) -> dict[str, Any]:
    """The estimate as the report shows it: the middle of each range."""
    return {"minutes": {k: round((low + high) / 2, 3) for k, (low, high) in found.minutes.items()},
            "memory": found.memory, "disk": found.disk}  # fmt: skip


def _with_student(wishes: Wishes, first: Plan) -> tuple[Plan, dict[str, Any] | None]:
    """The student by measured latency and size where there is a budget for them; else the usual one."""
    limits = wishes.budgets
    if wishes.student or (limits.latency is None and limits.size is None):
        return first, None
    tried = students.measured(img_size=first.data["size"], classes=len(first.case.classes or ()) or 2, budgets=limits)
    best = students.fit(tried, limits)
    why = students.reason(best, tried, limits)
    return plan(wishes, best.spec, why), {"spec": dict(best.spec), "why": why}


def _within(
    wishes: Wishes, chosen: Plan, found: Estimate, student: dict[str, Any] | None
) -> tuple[Wishes, Plan, Estimate]:
    """Fewer steps, then no fine-tuning of the teacher, until the minutes suffice; the shortest chain if they never do."""
    minutes = wishes.budgets.minutes
    assert minutes is not None
    before = _steps(chosen)
    recipe, left_out = scaled(chosen.recipe, found, minutes), ""
    if recipe is None and chosen.case.fit == "head" and "finetune" not in wishes.skip:
        wishes = dataclasses.replace(wishes, skip=(*wishes.skip, "finetune"))
        chosen = plan(wishes, student and student["spec"], student["why"] if student else "")
        found = estimate(chosen.recipe, device=wishes.device)
        recipe, left_out = scaled(chosen.recipe, found, minutes), "; the teacher is not fine-tuned"
    if recipe is None:
        recipe, left_out = _shortest(chosen.recipe), f"{left_out}; even this may take longer"
    changed = dataclasses.replace(chosen, recipe=recipe)
    if _steps(changed) != before:
        most = max(_steps(changed).values())
        changed.choices.append({"what": "minutes", "value": f"{minutes:g}",
                                "reason": f"all trainings shortened, the longest to {most} steps{left_out}"})  # fmt: skip
        found = rescaled(found, _steps(changed))
    return wishes, changed, found


def _shortest(recipe: dict[str, Any]) -> dict[str, Any]:
    stages = [{**s, "steps": min(s["steps"], lengths.SHORTEST)} if "steps" in s else s for s in recipe["stages"]]
    return {**recipe, "stages": stages}


def _steps(chosen: Plan) -> dict[str, int]:
    return {s["name"]: s["steps"] for s in chosen.recipe["stages"] if "steps" in s}


def _as_noted(wishes: Wishes, out: Path, noted: dict[str, Any]) -> Prepared:
    student = noted["student"] or {}
    decided = dataclasses.replace(wishes, skip=tuple(noted["skip"]))
    chosen = plan(decided, student.get("spec"), student.get("why", ""))
    for stage in chosen.recipe["stages"]:
        if stage["name"] in noted["steps"]:
            stage["steps"] = noted["steps"][stage["name"]]
    chosen = dataclasses.replace(chosen, choices=noted["choices"])
    found = noted["estimate"]
    minutes = {k: (low, high) for k, (low, high) in found["minutes"].items()}
    return Prepared(chosen, out, Estimate(minutes, found["memory"], found["disk"]), noted, True)
