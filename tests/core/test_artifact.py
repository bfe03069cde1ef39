"""Artifacts: atomic, checked before anything is allocated, and equal after they moved."""

import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from marrow.core.artifact import Artifact, save
from marrow.core.contracts import Report
from marrow.core.errors import MarrowError
from marrow.core.table import Table
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.classify import Classify

NARROW = {"img_size": 32, "channels": (8, 8, 16, 16), "stem_width": 8}
IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def classifier() -> Classify:
    torch.manual_seed(0)
    task = Classify(TimmBackbone.create("resnet10t", **NARROW), classes=3).eval()
    task.labels = ["ant", "bee", "cat"]
    return task


@pytest.fixture
def saved(tmp_path):
    return save(
        tmp_path / "model", classifier(), parents=["ab" * 32], metrics=[{"metric": "top1", "value": 0.5, "n": 4}]
    )


def rewrite(folder, **changes):
    file = folder / "artifact.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_moved_artifact_answers_the_same_in_a_fresh_process(saved, tmp_path):
    moved = shutil.move(saved.path, tmp_path / "elsewhere")
    code = ("import sys, torch, marrow; m = marrow.load(sys.argv[1]);"
            "x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0));"
            "torch.save(m({'image': x})['logits'].detach(), sys.argv[2]); print(m.labels)")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, str(moved), str(tmp_path / "out.pt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['ant', 'bee', 'cat']"
    with torch.no_grad():
        assert torch.equal(
            torch.load(tmp_path / "out.pt", weights_only=True), classifier()({"image": IMAGES})["logits"]
        )


def test_timm_alone_opens_an_unedited_backbone(tmp_path):
    backbone = TimmBackbone.create("resnet10t", **NARROW).eval()
    made = save(tmp_path / "net", backbone)
    args = {k: v for k, v in NARROW.items() if k != "img_size"}
    net = timm.create_model(
        "resnet10t", num_classes=0, checkpoint_path=str(made.path / "weights.safetensors"), **args
    ).eval()
    with torch.no_grad():
        assert torch.equal(net(backbone.normalized(IMAGES)), backbone(IMAGES).pooled)


def test_the_same_content_has_the_same_hash_and_other_weights_another(tmp_path, saved):
    again = save(tmp_path / "again", classifier(), seed=7, stage="other")
    assert again.hash == saved.hash
    other = classifier()
    with torch.no_grad():
        other.head.bias += 1
    assert save(tmp_path / "other", other).hash != saved.hash


def test_tables_and_reports_come_back(tmp_path):
    table = save(
        tmp_path / "table", Table({"index": torch.tensor([3, 1]), "label": torch.tensor([0, 1])}, ["a", "b"])
    ).load()
    assert table[1] == {"index": torch.tensor(1), "label": 1} and table.classes == ["a", "b"]
    report = save(tmp_path / "report", Report([{"metric": "x", "value": 1}], {"t": torch.ones(2)})).load()
    assert report.rows == [{"metric": "x", "value": 1}] and torch.equal(report.tensors["t"], torch.ones(2))


def test_an_artifact_holds_no_path_and_no_user(saved):
    text = "".join(f.read_text(errors="ignore") for f in saved.path.iterdir() if f.suffix in (".json", ".md"))
    assert str(saved.path.parent) not in text and os.path.expanduser("~") not in text


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    def fill(folder):
        raise MarrowError("no export today")

    with pytest.raises(MarrowError, match="no export today"):
        save(tmp_path / "new", {"input": None}, fill=fill)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_keeps_what_was_there(tmp_path, saved):
    def fill(folder):
        raise MarrowError("no export today")

    with pytest.raises(MarrowError):
        save(saved.path, {"input": None}, fill=fill)
    assert Artifact.open(saved.path).hash == saved.hash and [f.name for f in tmp_path.iterdir()] == ["model"]


def test_missing_truncated_and_altered_files_are_named(saved):
    weights = saved.path / "weights.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-8])
    with pytest.raises(MarrowError, match=r"model: weights.safetensors has \d+ bytes instead of \d+; it is cut off"):
        Artifact.open(saved.path)
    weights.write_bytes(good[:-8] + b"\0" * 7 + b"\1")
    with pytest.raises(MarrowError, match="weights.safetensors was altered after it was written"):
        Artifact.open(saved.path)
    weights.unlink()
    with pytest.raises(MarrowError, match="weights.safetensors is missing"):
        Artifact.open(saved.path)
    (saved.path / "artifact.json").unlink()
    with pytest.raises(MarrowError, match="no artifact here"):
        Artifact.open(saved.path)


def relist(saved):
    """List the weight file as it is now, as somebody who means harm would."""
    import hashlib

    data = (saved.path / "weights.safetensors").read_bytes()
    rewrite(saved.path, files={"weights.safetensors": [len(data), hashlib.sha256(data).hexdigest()]})
    return Artifact.open(saved.path)


def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(saved, tmp_path):
    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harmed"),))

    (saved.path / "weights.safetensors").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(MarrowError, match="weights.safetensors is not a safetensors file"):
        relist(saved).load()
    assert not (tmp_path / "harmed").exists()


def test_shapes_are_compared_before_anything_is_allocated(saved):
    weights = load_file(saved.path / "weights.safetensors")
    save_file({**weights, "head.weight": torch.zeros(4, 16)}, saved.path / "weights.safetensors")
    with pytest.raises(MarrowError, match=r"'head.weight' is \(4, 16\), the spec says \(3, 16\)"):
        relist(saved).load()
    del weights["head.bias"]
    save_file(weights, saved.path / "weights.safetensors")
    with pytest.raises(MarrowError, match="weights.safetensors lacks 'head.bias'"):
        relist(saved).load()


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"source": "timm:resnet10x", "args": {}}, "unknown backbone 'resnet10x'; did you mean"),
        ({"source": "hf-hub:someone/net", "args": {}}, "unknown source 'hf-hub:someone/net'"),
        ({"source": "timm:resnet18", "args": {"checkpoint_path": "x.pth"}}, "'checkpoint_path' is not an argument"),
        ({"task": "../../evil"}, "unknown task '../../evil'"),
        ({"task": "classify", "classes": 3}, "Classify needs backbone"),
        ({"edit": "drop_blocks", "values": {"nothing": 1}, "of": []}, "unknown key 'nothing'"),
        ({"import": "os"}, r"not a model spec: keys \['import'\]"),
    ],
)
def test_specs_name_only_what_is_registered(saved, spec, sentence):
    rewrite(saved.path, spec=spec)
    with pytest.raises(MarrowError, match=sentence):
        Artifact.open(saved.path).load()


def test_a_spec_cannot_ask_for_downloads(saved):
    rewrite(saved.path, spec={"source": "timm:resnet18", "args": {"pretrained": True}})
    with pytest.raises(MarrowError, match="pretrained"):
        Artifact.open(saved.path).load()


def test_files_outside_the_folder_are_refused(saved):
    files = Artifact.open(saved.path).meta["files"]
    rewrite(saved.path, files=files | {"../secret": [1, "00"]})
    with pytest.raises(MarrowError, match="'../secret', which is not a plain file name"):
        Artifact.open(saved.path)
