"""How good sub-nets of a supernet are on held-out examples: in any process, and remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Iterable, Sequence

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..backbones.vit_resnas_space import Architecture
from ..backbones.vit_resnas_subnet import extracted
from ..core.artifact import Artifact, save
from ..core.contracts import Task
from ..core.source import Source

AT_ONCE = 64  # candidates between two writes of what is known


@dataclasses.dataclass(frozen=True)
class Judge:
    """Scores an architecture by the first row of the supernet's metric, with the supernet's weights.

    The supernet and the examples lie in `folder`, so that it is cheap to pickle and a process reads them once.
    """

    folder: str
    device: str
    digest: str  # of the supernet and the examples

    @classmethod
    def of(cls, task: Task, source: Source, engine: Any, folder: str) -> "Judge":
        saved = save(Path(folder) / "supernet", task)
        columns: dict[str, list[Tensor]] = {}
        for batch in engine.batches(source, task.input):
            for name, values in batch.items():
                if isinstance(values, Tensor):
                    columns.setdefault(name, []).append(values.cpu())
        save_file({name: torch.cat(parts) for name, parts in columns.items()}, Path(folder) / "examples.safetensors")
        digest = hashlib.sha256((saved.hash + source.fingerprint()).encode()).hexdigest()
        return cls(folder, str(engine.device), digest[:16])

    def __call__(self, architecture: Architecture) -> float:
        task, examples = _opened(self.folder)
        small = extracted(task, architecture).to(self.device).eval()
        metric, count = small.metric(), len(next(iter(examples.values())))
        with torch.inference_mode():
            for first in range(0, count, small.at_once):
                batch = {k: v[first : first + small.at_once].to(self.device) for k, v in examples.items()}
                metric.update(small.decode(small(batch), batch), batch)
        return float(metric.compute()[0]["value"])


@lru_cache(maxsize=1)
def _opened(folder: str) -> tuple[Task, dict[str, Tensor]]:
    return Artifact.open(Path(folder) / "supernet").load(), load_file(Path(folder) / "examples.safetensors")


class Remembered:
    """The judge's scores, asked for once each and spread over processes by `engine.map`.

    The first process keeps them in the engine's cache, if there is one, where a search that was interrupted finds them.
    """

    def __init__(self, judge: Judge, engine: Any):
        self.judge, self.engine = judge, engine
        self.file = engine.cache / f"scores-{judge.digest}.jsonl" if engine.cache else None
        # Asked of the first process alone: others may run on machines that do not see the file, and all must agree.
        [known] = engine.map(_read, [self.file])
        self.known: dict[Architecture, float] = dict(known)

    def __call__(self, architectures: Sequence[Architecture]) -> list[float]:
        new = [a for a in dict.fromkeys(architectures) if a not in self.known]
        for first in range(0, len(new), AT_ONCE):
            part = new[first : first + AT_ONCE]
            scored = list(zip(part, self.engine.map(self.judge, part)))
            self.engine.map(partial(_append, self.file), [scored])
            self.known.update(scored)
        return [self.known[a] for a in architectures]


def _read(file: Path | None) -> list[tuple[Architecture, float]]:
    if file is None or not file.is_file():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):  # what a killed process was writing
        file.write_text("".join(lines := lines[:-1]), encoding="utf-8")
    return [(_architecture(*values), score) for values, score in map(json.loads, lines)]


def _append(file: Path | None, scored: Iterable[tuple[Architecture, float]]) -> None:
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "a", encoding="utf-8") as handle:
            handle.writelines(json.dumps(pair) + "\n" for pair in scored)


def _architecture(dims: Sequence[int], blocks: Sequence[Sequence[Sequence[int]]]) -> Architecture:
    """From JSON, which knows no tuples."""
    return Architecture(tuple(dims), tuple(tuple((i, h, m) for i, h, m in stage) for stage in blocks))
