"""`marrow claim`: run the small experiments behind the papers, and print the ledger of their verdicts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from .core import claim as core_claim
from .core import plain_json
from .core.claim import Claim
from .core.errors import MarrowError, near
from .core.recipe import Recipe, load
from .core.versions import versions

LARGEST = 2**20  # bytes of a result


def folder(name: str) -> Path:
    """`recipes` or `claims`: beside the package's sources in a clone, inside the package when installed."""
    package = Path(__file__).parent
    for place in (package.parents[1] / name, package / "shipped" / name):
        if place.is_dir():
            return place
    raise MarrowError(f"this installation has no folder '{name}'", where="marrow")


def known() -> list[str]:
    return sorted(f.stem for f in folder("claims").glob("*.py"))


def statement(name: str) -> Claim:
    """The CLAIM that `claims/<name>.py` states."""
    if name not in known():
        raise MarrowError(f"unknown claim '{name}'{near(name, known())}", where="claim")
    spec = importlib.util.spec_from_file_location(f"marrow_claim_{name}", folder("claims") / f"{name}.py")
    if spec is None or spec.loader is None:
        raise MarrowError(f"claims/{name}.py cannot be imported", where="claim")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CLAIM


def recipe(stem: str) -> dict[str, Any]:
    """A recipe of the house as a mapping, for a claim's arms."""
    return load(folder("recipes") / f"{stem}.yaml")


def ledger() -> list[dict]:
    """One row per claim: the committed result, or "not run yet"."""
    rows = []
    for name in known():
        file = folder("claims") / "results" / f"{name}.json"
        rows.append(_result(file) if file.is_file() else
                    {"system": name, "verdict": "not run yet", "says": statement(name).says})  # fmt: skip
    return rows


def _result(file: Path) -> dict:
    found = plain_json.read(file, "claims/results", LARGEST)
    if not isinstance(found, dict) or not isinstance(found.get("system"), str):
        raise MarrowError(f"{file.name} holds no result of a claim", where="claims/results")
    return found


def prove(
    name: str, *, out: Path | str = Path("runs/claims"), results: Path | None = None, resume: bool = True,
    device: str = "auto", quiet: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run every arm of a claim with every seed and write `<results>/<name>.json`.

    Seeds are the outer loop, so an unfinished claim has whole pairs. Arms already measured in `out` are not run again, nor
    are the stages with which two arms of one seed begin alike.
    """
    claim = statement(name)
    values: dict[str, list[float]] = {arm: [] for arm in claim.arms}
    rows: list[dict] = []
    for seed in claim.seeds:
        for arm in claim.arms:
            row = _measured(claim, arm, seed, Path(out) / name / f"{_plain(arm)}-{seed}", resume, device, quiet)
            values[arm].append(row["value"])
            rows.append(row)
    facts = {"minutes": round(sum(r["minutes"] for r in rows), 1), "n_test": rows[0]["n"], "commit": _commit(),
             "versions": versions(), "device": rows[0]["device"]}  # fmt: skip
    outcome = core_claim.result(claim, name, values, facts)
    core_claim.write((results or folder("claims") / "results") / f"{name}.json", outcome)
    return outcome


def _measured(claim: Claim, arm: str, seed: int, out: Path, resume: bool, device: str, quiet: bool) -> dict[str, Any]:
    file = out / "measured.json"
    if file.is_file() and (known := _noted(file, arm, seed)):
        return known
    from .core.contracts import Report
    from .core.engine import Engine
    from .data import open_sources
    from .run import run

    start = _processor_minutes()
    drawn, test = (core_claim.drawn(given, seed) for given in (claim.arms[arm], claim.test))
    recipe = Recipe.from_dict({**drawn, "seed": seed})
    _share(recipe, out)
    artifacts = run(recipe, out, resume=resume, device=device, quiet=quiet)
    engine = Engine(device=device)
    made = artifacts[-1].load()
    # A probe has read its own test images.
    rows = made.rows if isinstance(made, Report) else engine.evaluate(made, open_sources(test, f"claims/{arm}.test"))
    row = next((r for r in rows if r["metric"] == claim.measure), None)
    if row is None:
        raise MarrowError(
            f"no metric '{claim.measure}' among {', '.join(r['metric'] for r in rows)}", where=f"claim {arm}"
        )
    measured = {
        "arm": arm,
        "seed": seed,
        "value": row["value"],
        "n": row["n"],
        "minutes": _processor_minutes() - start,
        "device": str(engine.device),
    }
    core_claim.write(file, measured)
    return measured


def _processor_minutes() -> float:
    """Of this process and those that it waited for, on all cores; unlike a clock's, they are the same on a busy machine."""
    return sum(os.times()[:4]) / 60


def _share(recipe: Recipe, out: Path) -> None:
    """Copy into `out` the first stages that another arm has finished and that this one has too; `run` reuses them."""
    for file in sorted(out.parent.glob("*/recipe.yaml")):
        other = Recipe.from_dict(load(file))
        if file.parent == out or other.seed != recipe.seed:
            continue
        for mine, theirs in zip(recipe.stages, other.stages):
            there, here = file.parent / mine.name, out / mine.name
            if mine != theirs or not (there / "artifact.json").is_file():
                break
            if not here.exists():
                unfinished = out / f".{mine.name}.tmp"  # the next run clears what a killed one leaves
                shutil.copytree(there, unfinished, dirs_exist_ok=True)
                unfinished.rename(here)


def _noted(file: Path, arm: str, seed: int) -> dict[str, Any] | None:
    """What was measured before; None where the file says nothing of the kind, so that the artifact is measured again."""
    try:
        found = plain_json.read(file, str(file.parent), LARGEST)
    except MarrowError:
        return None
    kinds: dict[str, Any] = {"value": (int, float), "n": int, "minutes": (int, float), "device": str}
    whole = isinstance(found, dict) and all(isinstance(found.get(key), kind) for key, kind in kinds.items())
    return found if whole and (found.get("arm"), found.get("seed")) == (arm, seed) else None


def _plain(arm: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in arm)


def _commit() -> str | None:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return done.stdout.strip() or None if done.returncode == 0 else None
