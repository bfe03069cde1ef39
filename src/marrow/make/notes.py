"""`plan.json` of a run's folder: what was decided by measuring, so that the same call decides the same again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from pathlib import Path
from typing import Any

from ..core.artifact import Artifact
from ..core.recipe import Stage
from ..core.resources import peak_bytes
from ..core.versions import versions
from ..core.whole_file import write_text
from .wishes import Wishes

FILE = "plan.json"


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
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # cut off, or another's: it is written again
        return {}
    return found if isinstance(found, dict) and found.get("key") == key(wishes) else {}


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
