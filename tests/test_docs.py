"""What the site shows is what runs: recipes fit, code runs, the method of the guide is one, tables come from results."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import marrow
from marrow.core.fit_check import check_fit
from marrow.core.recipe import Recipe
from marrow.core.static_check import check_static

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
GUIDE = ROOT / "docs" / "adding_a_method.md"
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', re.DOTALL | re.MULTILINE)
NET = {"img_size": 32, "stem_width": 8}


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """(title, text) of a page's blocks of a language."""
    return [(title, text) for lang, title, text in BLOCK.findall(page.read_text("utf-8")) if lang == language]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the untrained models that the pages take for granted, in which they run."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    for name, channels in (("teacher", (16, 32, 64, 64)), ("student", (8, 16, 32, 32))):
        net = marrow.backbone("resnet10t", channels=channels, **NET)
        marrow.save(f"runs/digits/{name}", marrow.task("classify", backbone=net, classes=10))
    return tmp_path


def test_every_recipe_shown_would_run(folder):
    shown = [(page.name, yaml.safe_load(text)) for page in PAGES if page != GUIDE for _, text in blocks(page, "yaml")]
    recipes = [(page, values) for page, values in shown if "stages" in values]
    assert len(recipes) > 10
    problems = {page: check_static(values) or check_fit(Recipe.from_dict(values))[0] for page, values in recipes}
    assert not any(problems.values()), problems


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_shown_is_python(page):
    for title, text in blocks(page, "python"):
        compile(text, title or page.name, "exec")


def run_python(page: str, folder: str = "how_to") -> str:
    script = "\n".join(text for _, text in blocks(ROOT / "docs" / folder / page, "python"))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_code_of_use_runs(folder):
    answers = run_python("use.md").splitlines()
    assert [a.split()[0] for a in answers[:3]] == ["digit0.png", "digit1.png", "digit2.png"]
    assert "torch.Size([2, 10])" in answers[3] and "recall_at_1" in answers[4]


def test_the_code_of_scenes_runs():
    *texts, shapes = run_python("scenes.md", "").splitlines()
    assert texts and all(line.startswith("the ") and "[" in line for line in texts)
    assert shapes == "torch.Size([8, 3, 96, 96]) torch.Size([7, 2, 96, 96])"


def test_the_code_of_build_and_shrink_runs(folder):
    pytest.importorskip("transformers", reason="the extra hf is not installed")
    assert "['cat', 'dog', 'horse']" in run_python("build.md")
    assert 0 < int(run_python("shrink.md")) < 4_000_000
    assert marrow.load("narrow").classes == 10


@pytest.mark.slow
def test_the_code_of_ship_and_examine_runs(folder):
    from torchvision.io import write_png

    from marrow.run import export, run

    write_png(torch.zeros(3, 32, 32, dtype=torch.uint8), "digit0.png")
    export("runs/digits/student", "onnx", "runs/int8", data={"images": "digits", "split": "val"})
    [answer] = run_python("ship.md").splitlines()
    assert answer.isdigit()
    [recipe, _] = blocks(ROOT / "docs" / "how_to" / "examine.md", "yaml")
    run(yaml.safe_load(recipe[1]), "runs/knn", device="cpu", quiet=True)
    assert "knn_top1" in run_python("examine.md")


@pytest.fixture
def copy(tmp_path) -> Path:
    """This project with the files of the guide added, where their titles say."""
    for part in ("src/marrow", "recipes", "claims", "tests/common"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path / "tests")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    files = {title: text for language in ("python", "yaml") for title, text in blocks(GUIDE, language)}
    assert len(files) == 4 and all(files)
    for name, text in files.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def inside(copy: Path, *arguments: str) -> str:
    """What `python -m ARGUMENTS` prints with the copy's package in place of this one."""
    paths = {"PYTHONPATH": str(copy / "src")}
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=copy, env={**os.environ, **paths},
                          capture_output=True, text=True, timeout=280)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_method_of_the_guide_passes_its_tests(copy):
    assert "4 passed" in inside(copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/teach/test_soft_targets.py")
    assert "student" in inside(copy, "marrow.cli", "check", "recipes/soft_targets.yaml")
    [stated] = [
        row for row in json.loads(inside(copy, "marrow.cli", "claim", "--json")) if row["system"] == "soft_targets"
    ]
    assert stated["verdict"] == "not run yet"


@pytest.mark.slow
def test_the_method_of_the_guide_keeps_the_contract(copy):
    told = inside(copy, "pytest", "-q", "-p", "no:cacheprovider", "tests/common/test_methods.py", "-k", "soft_targets")
    assert re.search(r"\d+ passed", told) and "failed" not in told
    rows = json.loads(inside(copy, "marrow.cli", "run", "recipes/soft_targets.yaml", "--device", "cpu", "--json"))
    assert [row["stage"] for row in rows] == ["teacher", "student"]


def hook(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_benchmarks_are_tables_of_the_results_or_say_that_there_are_none(tmp_path):
    tables = hook("benchmark_tables")
    assert tables.section("loop", tmp_path) == tables.MISSING
    page = tables.on_page_markdown((ROOT / "docs" / "benchmarks.md").read_text("utf-8"))
    assert "<!-- benchmark" not in page
    trials = json.loads((tables.RESULTS / "crash.json").read_text("utf-8"))["trials"]
    equal = [t["equal"] for t in trials if t["trial"].startswith("make")]
    assert re.search(rf"^\| marrow make \| {len(equal)} \| \d+ \| {sum(equal)} \|$", page, re.MULTILINE)


def test_every_result_has_a_place_on_the_page():
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    files = (ROOT / "benchmarks" / "results").glob("*.json")
    assert not [f.name for f in files if f"<!-- benchmark {f.stem} -->" not in page]


def test_rows_of_an_unknown_shape_become_tables(tmp_path):
    tables = hook("benchmark_tables")
    found = {"date": "2026-01-02", "rows": [{"arm": "a|b", "ms": 1.5, "rounds": [1, 2]}], "target": {"ms": 2},
             "median": {"a": 1.0, "b": None}, "over": {"a": 0.5}, "threads": 1}  # fmt: skip
    (tmp_path / "new.json").write_text(json.dumps(found))
    lines = tables.section("new", tmp_path).splitlines()
    assert "| arm | ms |" in lines and "| a/b | 1.5 |" in lines
    assert "|  | median | over |" in lines and "| a | 1 | 0.5 |" in lines and "| b |  |  |" in lines
    assert lines[-1] == "<small>2026-01-02; 1 thread.</small>"


def test_the_contracts_page_shows_the_classes():
    page = hook("from_sources").on_page_markdown((ROOT / "docs" / "contracts.md").read_text("utf-8"))
    for contract in ("Backbone", "Task", "Method", "Shrinker", "Probe", "Exporter", "Edit"):
        assert re.search(rf"^class {contract}\b", page, re.MULTILINE), contract
    assert "<!-- contract" not in page
