"""The command on hostile files: exit code 2, one sentence, no traceback."""

import os

import pytest

from marrow.cli import main

from .inputs import replaced, rewrite, saved
from .test_recipes import GOOD


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    (place / "tag.yaml").write_text("a: !!python/object/apply:os.mkdir [harmed]")
    (place / "absurd.yaml").write_text(GOOD.replace("img_size: 32", "img_size: 32, depth: 1000000"))
    (place / "deep.yaml").write_text("a: " + "[" * 1000)
    rewrite(saved("task", place / "spec"), lambda m: m.update(spec={"source": "hf-hub:someone/net", "args": {}}))
    replaced(saved("task", place / "pickle"), "weights.safetensors", b"\x80\x04cos\nmkdir\n(S'harmed'\ntR.")
    rewrite(saved("task", place / "labels"), lambda m: m.update(labels=3))
    (saved("data", place / "json") / "artifact.json").write_bytes(b"[" * 100_000)
    (place / "run").mkdir()
    (place / "run" / "report.json").write_text('{"rows": [{"name": "x", "value": [], "metric": {}}], "verdict": 3}')
    (place / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return place


@pytest.mark.parametrize(
    "words",
    [
        ("check", "tag.yaml"),
        ("check", "deep.yaml"),
        ("check", "absurd.yaml"),
        ("run", "tag.yaml"),
        ("show", "spec"),
        ("show", "labels"),
        ("show", "json"),
        ("predict", "pickle", "x.png"),
        ("predict", "spec", "x.png"),
        ("report", "run"),
    ],
    ids=" ".join,
)
def test_it_ends_with_2_and_a_sentence(place, words, monkeypatch, capsys):
    monkeypatch.chdir(place)
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert said.startswith("error: ") and "Traceback" not in said and len(said) < 2000
    assert not (place / "harmed").exists() and not (place / "runs").exists()
    assert os.listdir(place / "run") == ["report.json"]
