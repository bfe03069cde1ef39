"""What is saved opens in a fresh process with equal outputs, with fused attention and without: one process for all pieces."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from marrow.core.artifact import Artifact, save
from marrow.core.catalogue import stems
from marrow.core.contracts import Task
from marrow.core.table import Table

from . import pieces
from .test_methods import trained
from .test_shrinkers import PAIRS, shrunk


def everything() -> dict[str, object]:
    """Backbones, tasks, what methods keep, and what shrinkers make, by a name for a folder."""
    found = {f"backbone-{name}": pieces.backbone(name) for name in pieces.backbone_names()}
    found |= {f"task-{stem}": pieces.task(stem) for stem in stems("tasks")}
    found |= {f"teach-{stem}": trained(stem).product() for stem in stems("teach")}
    cuts = {f"shrink-{stem}-{name}": shrunk(stem, name) for stem, name in PAIRS}
    return found | {name: model for name, model in cuts.items() if model is not None}


def says(thing: object) -> dict[str, torch.Tensor]:
    if isinstance(thing, Table):
        return thing.columns
    said = pieces.outputs(thing)
    return said if isinstance(thing, Task) else {"pooled": said["pooled"]}


def test_everything_saved_opens_elsewhere_with_equal_outputs(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    things = everything()
    expected = {}
    for name, thing in things.items():
        save(here / name, thing)
        expected[name] = says(thing)
    save_file({"image": pieces.images()}, here / "images.safetensors")
    shutil.move(here, there)  # an artifact knows nothing of where it was made
    script = Path(__file__).with_name("reopen.py")
    subprocess.run([sys.executable, str(script), str(there)], check=True, timeout=280, cwd=tmp_path)
    wrong = []
    for name, values in expected.items():
        for kind, exact in (("fused", True), ("written out", False)):
            theirs = load_file(there / f"{name}.{kind}.safetensors")
            assert theirs.keys() == values.keys(), name
            same = torch.equal if exact else lambda a, b: torch.allclose(a, b, rtol=1e-4, atol=1e-5)
            wrong += [f"{name} {key} ({kind})" for key, value in values.items() if not same(value, theirs[key])]
    assert not wrong


def test_artifacts_name_no_place_or_person(tmp_path):
    found = save(tmp_path / "task", pieces.task())
    text = (found.path / "artifact.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and str(Path.home()) not in text
    assert Artifact.open(found.path).hash == found.hash
