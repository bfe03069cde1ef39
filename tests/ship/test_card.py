"""The model card: its code runs, the hub reads its header, and nothing of the machine or of a user's words gets in."""

import getpass
import json
import os
import re
import socket

import pytest
import torch
import yaml
from PIL import Image

from marrow.core import artifact
from marrow.core.contracts import Input
from marrow.core.spec import build
from marrow.core.table import Table
from marrow.ship import card
from marrow.ship.licences import UNKNOWN, entry

NET = {"source": "timm:resnet10t", "args": {"channels": [8, 16, 24, 32], "stem_width": 8, "img_size": 32}}
VIT = {"source": "timm:vit_tiny_patch16_224",
       "args": {"img_size": 32, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 2, "mean": [0.5, 0.5, 0.5]}}  # fmt: skip
METRICS = [{"metric": "top1", "value": 0.96, "n": 250, "split": "val"}]


def task(names=("cat", "dog")):
    torch.manual_seed(0)
    made = build({"task": "classify", "backbone": NET, "classes": len(names)})
    made.labels = list(names)
    return made


def saved(folder, thing, **more) -> str:
    artifact.save(folder, thing, finish=card.write, **more)
    return (folder / "README.md").read_text(encoding="utf-8")


def code(text: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


@pytest.mark.parametrize("spec", [NET, VIT], ids=["convolutional", "built for one size"])
def test_its_code_runs_and_plain_timm_gives_the_same_features(tmp_path, monkeypatch, spec):
    torch.manual_seed(0)
    text = saved(tmp_path / "net", build(spec))
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    snippet, replaced = re.subn(r"image = torch.zeros\(.*", "", code(text))
    assert replaced == 1
    names = {"image": image}
    monkeypatch.chdir(tmp_path / "net")
    with torch.no_grad():
        exec(snippet, names)
        torch.testing.assert_close(names["features"], names["model"](image).pooled, atol=1e-5, rtol=1e-4)
    assert names["features"].abs().sum() > 0


def test_a_classifier_s_code_runs(tmp_path, monkeypatch, capsys):
    text = saved(tmp_path / "net", task())
    Image.new("RGB", (40, 50), "red").save(tmp_path / "net" / "photo.jpg")
    monkeypatch.chdir(tmp_path / "net")
    exec(code(text), {})
    said = capsys.readouterr().out
    assert "photo.jpg" in said and "cat" in said


def test_the_hub_reads_its_header(tmp_path):
    from huggingface_hub import ModelCard

    saved(tmp_path / "net", task(), metrics=METRICS)
    read = ModelCard.load(tmp_path / "net" / "README.md").data
    assert (read.library_name, read.license, read.license_name) == ("marrow", "other", "chosen-by-the-owner")
    assert read.pipeline_tag == "image-classification" and read.metrics == ["accuracy"] and "marrow" in read.tags


def test_it_says_what_artifact_json_holds(tmp_path):
    text = saved(tmp_path / "net", task(), metrics=METRICS, parents=["a" * 64], seed=7,
                 recipe={"teach": "ssld", "steps": 3},
                 licences=[entry("teacher weights", "resnet18.fb_swsl_ig1b_ft_in1k", "cc-by-nc-4.0"),
                           entry("student weights", "mine.pth", UNKNOWN)])  # fmt: skip
    plain = text.replace("\N{NO-BREAK SPACE}", " ")
    for said in ("| top-1 | 96.0 % | 92.8 to 97.8 | 250 | val |", "a" * 64, "`teach: ssld`, seed 7", "2021",
                 "no commercial use", UNKNOWN, "32 x 32 px", "resnet10t", "cat, dog"):  # fmt: skip
        assert said in plain, said
    (digest,) = (d for n, (_, d) in json.loads((tmp_path / "net" / "artifact.json").read_text())["files"].items())
    assert digest in text


def test_a_metric_that_is_no_accuracy_is_explained(tmp_path):
    rows = [{"metric": "agreement", "value": 0.9, "n": 1250, "split": "val", "ci95": [0.88, 0.92]},
            {"metric": "knn_agreement", "value": None, "n": 1250}]  # fmt: skip
    text = saved(tmp_path / "net", task(), metrics=rows)
    assert "| agreement with the teacher | 90.0 % | 88.0 to 92.0 | 1250 | val |" in text
    assert "\n\nAgreement is how often a model answers as the teacher does, on 1,250 held-out images" in text
    assert "\n\nK-NN agreement is" in text and "accuracy" not in yaml.safe_load(text.split("---")[1]).get("metrics", [])


def test_it_asks_its_publisher_about_the_data(tmp_path):
    text = saved(tmp_path / "net", task())
    assert "says here where its training images are from" in text
    assert not re.search(r"TODO|FIXME|placeholder", text)


def test_names_of_classes_stay_words(tmp_path):
    names = ["<script>alert(1)</script>", "a\n# heading", "[link](https://evil.example)", "```", "a|b", "*star*"]
    text = saved(tmp_path / "net", task(names))
    assert "<script" not in text and "\n# heading" not in text and "[link](" not in text.replace("\\[link\\](", "")
    assert text.count("```") % 2 == 0
    yaml.safe_load(text.split("---")[1])


def test_no_path_host_or_user_gets_in(tmp_path):
    text = saved(tmp_path / "net", task(), recipe={"teach": "supervised"}, metrics=METRICS)
    names = {socket.gethostname(), str(tmp_path), os.path.expanduser("~"), f"/{getpass.getuser()}/"}
    assert not [name for name in names if name and name in text]


def test_tables_and_exported_files_have_cards_too(tmp_path):
    assert "data set" in saved(tmp_path / "table", Table({"index": torch.arange(3)}))
    facts = {"runtime": "onnxruntime", "precision": "int8", "task": "classify", "input": Input(size=(32, 32)).to_json(),
             "inputs": ["image"], "outputs": ["logits"], "calibration": None, "parity": {}}  # fmt: skip
    text = saved(tmp_path / "file", facts, fill=lambda folder: (folder / "model.onnx").write_bytes(b"x"))
    assert "# classify int8 for onnxruntime" in text and "timm.create_model" not in text
    assert "onnx" in yaml.safe_load(text.split("---")[1])["tags"]
