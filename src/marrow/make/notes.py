"""`plan.json` of a run's folder: what was decided by measuring, so that the same call decides the same again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from ..core import plain_json
from ..core.artifact import Artifact
from ..core.errors import MarrowError
from ..core.recipe import Stage
from ..core.resources import peak_bytes
from ..core.versions import versions
from ..core.whole_file import write_text
from .wishes import Wishes

FILE = "plan.json"
LARGEST = 2**20  # bytes
NOTED = ("key", "student", "skip", "steps", "choices", "estimate")


def key(wishes: Wishes) -> str:
    """Names a call but for its budgets, since a folder keeps what it holds when they are widened to accept it."""
    plain = {k: str(v) for k, v in dataclasses.asdict(wishes).items() if k != "budgets"}
    text = json.dumps([plain, versions()["marrow"]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read(out: Path, wishes: Wishes) -> dict[str, Any]:
    """What an earlier run of the same call noted; empty when there was none."""
    file = out / FILE
    if not file.is_file():
        return {}
    try:
        found = plain_json.read(file, str(out), LARGEST)
    except MarrowError:  # cut off, or another's: it is written again
        return {}
    return found if _is_note(found) and found["key"] == key(wishes) else {}


def _is_note(found: Any) -> bool:
    """Whether it is what `write` wrote, which `prepare` made and `Taken` went on with."""
    if not isinstance(found, dict) or not {*NOTED} <= set(found) <= {*NOTED, "minutes", "early"}:
        return False
    student, estimate, steps = found["student"], found["estimate"], found["steps"]
    return (
        (student is None or _has(student, spec=dict, why=str))
        and _texts(found["skip"])
        and _texts(found.get("early", []))
        and isinstance(steps, dict)
        and all(type(n) is int and n > 0 for n in steps.values())
        and isinstance(found["choices"], list)
        and all(_has(c, what=str, reason=str) and "value" in c for c in found["choices"])
        and _has(estimate, minutes=dict)
        and all(_amount(estimate.get(key)) for key in ("memory", "disk"))
        and all(isinstance(r, list) and len(r) == 2 and all(map(_amount, r)) for r in estimate["minutes"].values())
        and isinstance(minutes := found.get("minutes", {}), dict)
        and all(map(_amount, minutes.values()))
    )


def _has(value: Any, /, **kinds: type) -> bool:
    return isinstance(value, dict) and all(type(value.get(key)) is kind for key, kind in kinds.items())


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _amount(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 2**53


def write(out: Path, found: dict[str, Any]) -> None:
    write_text(out / FILE, json.dumps(found, indent=1) + "\n")


class Taken:
    """What a run took, stage by stage; a stage that is used again keeps the minutes of the run that made it."""

    def __init__(self, out: Path, noted: dict[str, Any]):
        self._out, self._noted, self._last = out, noted, time.monotonic()
        self.minutes: dict[str, float] = noted.setdefault("minutes", {})
        self.early: list[str] = noted.setdefault("early", [])

    def after(self, stage: Stage, artifact: Artifact, history: dict | None) -> None:
        now = time.monotonic()
        if history is not None:
            self.minutes[stage.name] = round((now - self._last) / 60, 3)
            if history.get("stopped_early"):
                step, metric, value = history["best"]
                self.early.append(f"{stage.name} stopped after {history['steps']} of {stage.values['steps']} steps; its best "
                                  f"{metric} on validation images, {value:.1%}, was at step {step}")  # fmt: skip
            write(self._out, self._noted)
        self._last = now

    def all(self) -> dict[str, Any]:
        """Minutes of each stage and of the measuring since the last, peak memory of this process, bytes on disk."""
        minutes = {**self.minutes, "measuring": round((time.monotonic() - self._last) / 60, 3)}
        return {"minutes": {**minutes, "all": round(sum(minutes.values()), 2)}, "memory": peak_bytes(),
                "disk": sum(f.stat().st_size for f in self._out.rglob("*") if f.is_file())}  # fmt: skip
