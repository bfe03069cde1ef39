"""Recipes from somebody who means harm: bombs, tags, endless nesting, names that lead elsewhere, numbers without end."""

import json
import os

import pytest

from marrow.core.errors import MarrowError
from marrow.core.recipe import read

from .inputs import refusal, saved

GOOD = """\
seed: 0
stages:
  - teach: supervised
    name: teacher
    task: {task: classify, backbone: {backbone: resnet10t, img_size: 32}, classes: 10}
    data: {train: [{images: digits, split: train}], batch: 64}
    optim: {sgd: {lr: 0.1}}
    steps: 10
  - shrink: drop_blocks
    model: {stage: teacher}
    args: {stage: layer3}
"""


def written(folder, text):
    file = folder / "recipe.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24)
)
FILES = {
    "a billion laughs": (LAUGHS, "anchors and aliases are not read"),
    "a list that holds itself": ("stages: &a [*a]", "anchors and aliases are not read"),
    "a merge": ("stages: [{<<: {teach: x}}]", "stages"),
    "a merge of an anchor": ("a: &a {x: 1}\nstages: [{<<: *a}]", "anchors and aliases are not read"),
    "python/object": ("a: !!python/object/apply:os.system ['mkdir harmed']", "tags such as"),
    "python/name": ("a: !!python/name:os.system", "tags such as"),
    "python/module": ("a: !!python/module:os", "tags such as"),
    "a tag of its own": ("a: !evil x", "tags such as"),
    "binary": ("a: !!binary aGVsbG8=", "tags such as"),
    "a set": ("a: !!set {x}", "tags such as"),
    "a tag directive": ("%TAG ! tag:evil,2000:\n---\na: !x y", "tags such as"),
    "two documents": ("seed: 0\n---\nseed: 1", "not YAML"),
    "a doubled key": ("seed: 0\nseed: 1", "'seed' is given twice"),
    "a doubled key inside": ("stages: [{teach: a, teach: b}]", "'teach' is given twice"),
    "ten megabytes": ("a: " + "x" * 10**7, "a recipe has at most"),
    "deep flow": ("a: " + "[" * 50_000, "nested more than|not YAML"),
    "deep mappings": ("{a: " * 40_000, "nested more than|not YAML"),
    "deep blocks": ("".join(" " * i + "a:\n" for i in range(500)), "nested more than"),
    "NUL bytes": (GOOD.encode() + b"\0\0", "not YAML"),
    "NUL in a path": (GOOD.replace("images: digits", 'images: "dig\\0its"'), "without the character 0"),
    "control characters": ("a: \x1b[2J", "not YAML"),
    "latin-1": ("a: é".encode("latin-1"), "not a text file in UTF-8"),
    "utf-16": (GOOD.encode("utf-16"), "not a text file in UTF-8"),
    "a pickle": (b"\x80\x04\x95\x10\x00", "not a text file in UTF-8"),
    "nothing": ("", "a recipe is a mapping"),
    "a word": ("recipe", "a recipe is a mapping"),
    "a number for a key": ("1: 2", "a key is a name"),
    "a list for a key": ("? [a, b]\n: 1", "a key is a name"),
    "a mapping for a key": ("? {a: b}\n: 1", "a key is a name"),
    "null for a key": ("~: 1", "a key is a name"),
    "true for a key": ("true: 1", "a key is a name"),
    "a float without end": ("seed: 1e999", "more than a float can hold"),
    "a thousand unknown keys": ("\n".join(f"k{i}: 1" for i in range(15_000)), "100 or more problems"),
    "a hundred thousand stages": ("stages: [" + "1," * 90_000 + "]", "100 or more problems"),
    "a long key": ("x" * 100_000 + ": 1", "unknown key|not YAML"),
    "the text turned around": ("\u202eseed\u202c: 1", "unknown key"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_are_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text, said = FILES[name]
    refusal(lambda: read(written(tmp_path, text)), said)
    assert os.listdir(tmp_path) == ["recipe.yaml"]


VALUES = {
    "steps 10**30": ("stages.0.steps", str(10**30), "a whole number of at least 1 is needed"),
    "steps 10**17": ("stages.0.steps", str(10**17), "a number of at most 1,000,000,000 is needed"),
    "steps negative": ("stages.0.steps", "-1", "a whole number"),
    "steps nan": ("stages.0.steps", ".nan", "a whole number"),
    "batch 10**12": ("stages.0.data.batch", str(10**12), "a number of at most 1,048,576 is needed"),
    "workers 10**6": ("stages.0.data.workers", str(10**6), "a number of at most 256 is needed"),
    "lr .inf": ("stages.0.optim.sgd.lr", ".inf", "a number above 0 is needed"),
    "lr .nan": ("stages.0.optim.sgd.lr", ".nan", "a number above 0 is needed"),
    "lr 1e400": ("stages.0.optim.sgd.lr", "1e400", "more than a float can hold"),
    "seed 10**17 * 100": ("seed", "9" * 19, "a whole number"),
    "classes 10**12": ("stages.0.task.classes", str(10**12), "a number of at most 1,048,576 is needed"),
    "img_size 10**6": ("stages.0.task.backbone.img_size", str(10**6), "a number of at most 16,384 is needed"),
    "a path in a name": ("stages.0.name", "../x", "a folder name"),
    "an absolute name": ("stages.0.name", "/etc", "a folder name"),
    "a hidden name": ("stages.0.name", ".lock", "a folder name"),
    "dots": ("stages.0.name", "..", "a folder name"),
    "a name ending in a dot": ("stages.0.name", "a.", "cannot be called"),
    "a device": ("stages.0.name", "nul", "cannot be called"),
    "a device with an ending": ("stages.0.name", "com1.txt", "cannot be called"),
    "a reserved name": ("stages.0.name", "checkpoints", "a folder name"),
    "a name with an end of line": ("stages.0.name", '"a\\nb"', "a folder name"),
    "a long name": ("stages.0.name", "a" * 300, "cannot be called"),
    "a long path": ("stages.0.data.train.0.images", "a" * 5000, "no file has so long a name"),
    "a name that is a list": ("stages.0.name", "[a]", "a folder name"),
    "a name that is a mapping": ("stages.0.name", "{a: b}", "a folder name"),
    "a stem by path": ("stages.0.teach", "../../evil", "unknown method"),
    "a stem by dots": ("stages.0.teach", "os.system", "unknown method"),
    "a stem of a module": ("stages.0.teach", "__init__", "unknown method"),
    "a stage of itself": ("stages.0.task", "{stage: 0}", "no earlier stage"),
    "a later stage": ("stages.0.task", "{stage: 1}", "no earlier stage"),
    "a stage by a list": ("stages.1.model", "{stage: [0]}", "no earlier stage"),
    "a stage by true": ("stages.1.model", "{stage: true}", "no earlier stage"),
    "a negative stage": ("stages.1.model", "{stage: -1}", "no earlier stage"),
    "weights that are a folder": ("stages.0.task.backbone.weights", "/", "no weight file"),
    "an artifact elsewhere": ("stages.1.model", "{artifact: /etc}", "no artifact at"),
    "a part of a list": ("stages.1.model", "{stage: 0, part: [x]}", "the name of a part"),
    "a tag": ("seed", "!!python/name:os.system", "tags such as"),
    "an anchor": ("seed", "&a 1", "anchors"),
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
def test_values_are_refused_in_the_file_and_on_the_command_line(tmp_path, name):
    path, value, said = VALUES[name]
    refusal(lambda: read(written(tmp_path, GOOD), [f"{path}={value}"]), said)


@pytest.mark.parametrize("override", ["=1", ".=1", "..=1", "stages.=1", "stages..0=1", "stages.-1.steps=1", "stages[9999999999999]=1",
                                      "seed=[" + "[" * 5000, "stages.0.steps.a.b=1", "a" * 5000 + "=1", "seed=\x1b[2J", "stages.٣.steps=1"])  # fmt: skip
def test_overrides_are_refused(tmp_path, override):
    refusal(lambda: read(written(tmp_path, GOOD), [override]))


def test_the_good_one_is_read(tmp_path):
    assert [s.stem for s in read(written(tmp_path, GOOD)).stages] == ["supervised", "drop_blocks"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"kind": ["task"]}', b'{"kind": {}}', b"[]", b"3", b"\xff"]
)
def test_an_artifact_in_a_recipe_whose_json_is_none(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "artifact.json").write_bytes(content)
    refusal(lambda: read(written(tmp_path, GOOD), ["stages.1.model={artifact: made}"]), "made/artifact.json")


def test_an_artifact_of_a_hundred_megabytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = saved("task", tmp_path / "made")
    with open(folder / "artifact.json", "r+b") as file:
        file.truncate(100 * 2**20)
    refusal(lambda: read(written(tmp_path, GOOD), ["stages.1.model={artifact: made}"]), "more than")


def test_text_of_a_recipe_is_not_printed_as_it_is():
    sentence = str(MarrowError(f"got {'x' * 10**6} \x1b[2J\u202e", where="a\x07b"))
    assert len(sentence) < 1500 and "\\u001b" in sentence and "\\u202e" in sentence and "\\u0007" in sentence
    assert json.dumps(sentence, ensure_ascii=False).isprintable()
