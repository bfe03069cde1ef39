"""`marrow make` on each row of its table of cases, with real data: quality, minutes, and what was estimated.

python benchmarks/cases.py [CASE ...] [--seeds 0 1 2]     # MARROW_DATA says where the data lie

Each run is added to docs/results/CASE.json; runs that are there already are not made again.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, Callable

import pyarrow.parquet as pq
from PIL import Image

import marrow
from marrow.core.versions import versions

DATA = Path(os.environ.get("MARROW_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
RESULTS = Path(__file__).parent.parent / "docs" / "results"
ROW = ("name", "kind", "metric", "value", "n", "ci95", "more", "params", "macs", "bytes", "reason")

Wishes = dict[str, Any]


def digits(place: Path) -> Wishes:
    """Labels, no teacher: the embedded digits."""
    return {}


def photo(place: Path) -> Wishes:
    """Labels, no teacher: PACS photo, 1,670 pictures of 7 classes."""
    return {"data": str(DATA / "pacs" / "photo.parquet"), "img_size": 64, "minutes": 5.0}


def photo_backbone(place: Path) -> Wishes:
    """Labels and a backbone: PACS photo; a ResNet-56 of CIFAR-10 gets a head for its 7 classes."""
    weights = DATA / "cifar10-weights-jpeg" / "resnet56.safetensors"
    return {"data": str(DATA / "pacs" / "photo.parquet"), "teacher": f"cifar_resnet56={weights}", "minutes": 8.0}


def cifar(place: Path) -> Wishes:
    """Labels, a pool and a model with a head: CIFAR-10, 5,000 labelled and 20,000 unlabelled pictures, ResNet-56."""
    table = pq.read_table(DATA / "cifar10" / "train.parquet")
    pq.write_table(table.slice(0, 5000), _made(place / "cifar" / "train.parquet"))
    pq.write_table(pq.read_table(DATA / "cifar10" / "test.parquet"), place / "cifar" / "test.parquet")
    pq.write_table(table.slice(5000, 20000).drop_columns("label"), place / "pool.parquet")
    shutil.copy(DATA / "cifar10-weights-jpeg" / "resnet56.safetensors", place / "resnet56.safetensors")
    names = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    (place / "resnet56.labels.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return {"data": str(place / "cifar"), "unlabelled": str(place / "pool.parquet"),
            "teacher": f"cifar_resnet56={place / 'resnet56.safetensors'}", "minutes": 7.0}  # fmt: skip


def sketch_answers(place: Path) -> Wishes:
    """No labels and a model with a head: PACS sketch, 3,929 pictures; a ResNet-18 that learned a third of it with labels."""
    return {"data": str(_flat(place)), "teacher": str(_sketch_teacher(place)), "img_size": 64, "minutes": 5.0}


def sketch_features(place: Path) -> Wishes:
    """No labels and a backbone: PACS sketch; the same ResNet-18 without its head."""
    teacher = _sketch_teacher(place)
    marrow.save(place / "backbone", marrow.load(teacher).backbone)
    return {"data": str(_flat(place)), "teacher": str(place / "backbone"), "img_size": 64, "minutes": 5.0}


def wbc(place: Path) -> Wishes:
    """Labels, no teacher, imbalance: 400 white blood cells of 5 classes, of which the smallest has 4 pictures."""
    return {"data": str(DATA / "wbc" / "train.parquet"), "img_size": 64, "minutes": 4.0}


def budgets_met(place: Path) -> Wishes:
    """Budgets that can be met: the digits within 0.2 ms, 1 MB, 3 points."""
    return {"max_latency": "0.2ms", "max_size": "1MB", "max_drop": 3.0}


def budgets_missed(place: Path) -> Wishes:
    """Budgets that cannot be met: the digits within 0.02 ms."""
    return {"max_latency": "0.02ms", "max_drop": 3.0}


CASES: dict[str, Callable[[Path], Wishes]] = {
    f.__name__: f
    for f in (digits, photo, photo_backbone, cifar, sketch_answers, sketch_features, wbc, budgets_met, budgets_missed)
}


def _made(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _flat(place: Path) -> Path:
    """The sketches as a folder of pictures that says nothing about their classes."""
    folder = place / "sketches"
    folder.mkdir(exist_ok=True)
    for i, cell in enumerate(pq.read_table(DATA / "pacs" / "sketch.parquet").column("image")):
        content = cell["bytes"].as_py()
        kind = (Image.open(io.BytesIO(content)).format or "png").lower()
        (folder / f"{i:05}.{kind}").write_bytes(content)
    return folder


def _sketch_teacher(place: Path) -> Path:
    """Trained with labels on the third with the highest content hash, of which the runs have no labels."""
    given = {"images": str(DATA / "pacs" / "sketch.parquet"), "hash": [0.66, 1.0]}
    stage = {
        "teach": "supervised", "name": "teacher",
        "task": {"task": "classify", "backbone": {"backbone": "resnet18", "img_size": 64}, "classes": 7},
        "data": {"train": [given], "batch": 64}, "args": {"crop": [0.35, 1.0], "flip": True},
        "optim": {"adamw": {"lr": 2e-3, "weight_decay": 0.05}}, "steps": 300,
    }  # fmt: skip
    return marrow.run({"seed": 0, "stages": [stage]}, place / "sketch", quiet=True)[0].path


def run(case: str, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        wishes = CASES[case](Path(folder))
        report = marrow.make(**wishes, seed=seed, out=Path(folder) / "run")
    rows = [
        {**{k: r[k] for k in ROW if k in r}, "ms": (r.get("latency_ms") or {}).get("median")} for r in report["rows"]
    ]
    plain = {k: Path(v).name if k in ("data", "teacher", "unlabelled") else v for k, v in wishes.items()}
    return {"seed": seed, "options": plain, "rows": rows, "load": round(os.getloadavg()[1], 1),
            **{k: report[k] for k in ("data", "ship", "verdict", "budgets", "accept", "estimate", "actual", "early", "device")},
            "findings": [{k: f[k] for k in ("severity", "what", "count")} for f in report["findings"]],
            "choices": report["choices"]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=", ".join(CASES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    for seed in given.seeds:
        for case in given.cases or CASES:
            file = RESULTS / f"{case}.json"
            found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"runs": []}
            if any(r["seed"] == seed for r in found["runs"]):
                continue
            found["what"] = (CASES[case].__doc__ or "").strip()
            found["runs"] = sorted([*found["runs"], run(case, seed)], key=lambda r: r["seed"])
            found["versions"] = versions()
            _made(file).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            print(case, seed, found["runs"][-1]["verdict"], sep="\n", flush=True)


if __name__ == "__main__":
    main()
