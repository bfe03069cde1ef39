"""The main job on the embedded digits, three seeds: what the teacher buys, what int8 costs, how long it takes.

python benchmarks/digits.py --json benchmarks/results/digits.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import marrow
from marrow.core.artifact import Artifact
from marrow.core.claim import interval95
from marrow.core.versions import versions
from marrow.ship.interval import wilson

ROWS = ("teacher", "baseline", "student", "int8", "fp32")


def one(seed: int, folder: Path) -> dict:
    start = time.monotonic()
    report = marrow.make(seed=seed, out=folder / str(seed), quiet=True)
    rows = {r["name"]: r for r in report["rows"]}
    parity = Artifact.open(folder / str(seed) / "int8").meta["runtime"]["parity"]
    return {
        "seed": seed,
        "minutes": (time.monotonic() - start) / 60,
        "top1": {n: rows[n]["value"] for n in ROWS},
        "n": rows["student"]["n"],
        "milliseconds": {n: rows[n]["latency_ms"]["median"] for n in ROWS},
        "bytes": {n: rows[n]["bytes"] for n in ROWS},
        "agreement": parity["agreement"],
        "compared": parity["n"],
        "ship": report["ship"],
        "device": report["device"],
    }


def summary(runs: list[dict]) -> dict:
    def gap(a: str, b: str) -> dict:
        points = [100 * (r["top1"][a] - r["top1"][b]) for r in runs]
        low, high = interval95(points)
        return {"points": statistics.mean(points), "ci95": [low, high], "seeds": points}

    n = sum(r["n"] for r in runs)
    pooled = {name: sum(r["top1"][name] * r["n"] for r in runs) / n for name in ROWS}
    compared = sum(r["compared"] for r in runs)
    return {
        "seeds": [r["seed"] for r in runs],
        "top1, pooled": pooled,
        "ci95, pooled": {name: wilson(round(value * n), n) for name, value in pooled.items()},
        "n, pooled": n,
        "student over baseline": gap("student", "baseline"),
        "int8 over fp32": gap("int8", "fp32"),
        "int8 agrees with its model": sum(r["agreement"] * r["compared"] for r in runs) / compared,
        "int8 bytes / fp32 bytes": statistics.median(r["bytes"]["int8"] / r["bytes"]["fp32"] for r in runs),
        "fp32 time / int8 time": statistics.median(r["milliseconds"]["fp32"] / r["milliseconds"]["int8"] for r in runs),
        "minutes": [r["minutes"] for r in runs],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [one(seed, Path(folder)) for seed in given.seeds]
    found = {**summary(runs), "runs": runs, "versions": versions()}
    for name, value in found.items():
        if name not in ("runs", "versions"):
            print(f"{name:28} {json.dumps(value)}")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
