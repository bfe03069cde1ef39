"""A small artifact of each kind to be spoilt, and how an end is judged: well, or one sentence, soon, in little memory."""

from __future__ import annotations

import hashlib
import json
import re
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator

import pytest
import torch

from marrow.core.artifact import Artifact, save
from marrow.core.contracts import Report
from marrow.core.errors import MarrowError
from marrow.core.resources import peak_bytes
from marrow.core.table import Table
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.classify import Classify

NARROW = {"img_size": 32, "channels": (8, 8, 16, 16), "stem_width": 8}
SECONDS = 30.0  # on an idle machine all take less than 5
BYTES = 700 * 2**20  # that the process may grow by, the imports of a first call among them
# What a sentence may not hold: anything a terminal would act on.
ACTED_ON = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def classifier() -> Classify:
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create("resnet10t", **NARROW), classes=3).eval()
    task.labels = ["ant", "bee", "cat"]
    return task


def saved(kind: str, folder: Path) -> Path:
    """An artifact of a kind that can be made in a moment."""
    thing = {"task": classifier, "backbone": lambda: classifier().backbone,
             "data": lambda: Table({"image": torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "label": torch.tensor([0, 1])}),
             "report": lambda: Report([{"metric": "x", "value": 1}], {"t": torch.ones(2)})}[kind]()  # fmt: skip
    return save(folder, thing, metrics=[{"metric": "top1", "value": 0.5, "n": 4}]).path


def rewrite(folder: Path, change: Callable[[dict], Any]) -> Path:
    """artifact.json changed in place, as somebody who means harm would."""
    file = folder / "artifact.json"
    meta = json.loads(file.read_text())
    change(meta)
    file.write_text(json.dumps(meta))
    return folder


def replaced(folder: Path, name: str, data: bytes) -> Path:
    """A file with other bytes, and artifact.json saying that they are right."""
    (folder / name).write_bytes(data)
    return rewrite(folder, lambda m: m["files"].update({name: [len(data), hashlib.sha256(data).hexdigest()]}))


def put(meta: Any, path: tuple, value: Any) -> None:
    for key in path[:-1]:
        meta = meta[key]
    meta[path[-1]] = value


def opened(folder: Path) -> Any:
    """Everything that opening an artifact does."""
    artifact = Artifact.open(folder)
    return artifact.hash and artifact.load()


@contextmanager
def soon() -> Iterator[None]:
    """What is inside takes little time and memory."""
    began, before = time.monotonic(), peak_bytes()
    yield
    assert time.monotonic() - began < SECONDS
    assert peak_bytes() - before < BYTES


def refusal(action: Callable[[], Any], said: str = "") -> str:
    """The sentence that an action ends with."""
    with soon(), pytest.raises(MarrowError, match=said) as caught:
        action()
    sentence = str(caught.value)
    assert sentence and len(sentence) < 200_000 and not ACTED_ON.search(sentence)
    return sentence
