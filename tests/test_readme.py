"""What the README shows is what runs."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

from marrow.core.catalogue import CONTRACTS, stems
from marrow.core.static_check import check_static

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_recipes_shown_pass_the_static_check():
    texts = blocks(README, "yaml") + blocks((ROOT / "docs" / "recipes.md").read_text(encoding="utf-8"), "yaml")
    assert len(texts) == 2
    for text in texts:
        assert check_static(yaml.safe_load(text)) == []


def test_the_python_shown_runs_and_learns(tmp_path):
    [script] = blocks(README, "python")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert float(re.search(r"'value': ([\d.]+)", done.stdout)[1]) > 0.7
    assert (tmp_path / "digits-model" / "artifact.json").is_file()


def test_the_test_command_is_the_one_that_ci_runs():
    *_, last = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()
    assert last in README


def test_the_table_of_what_there_is_is_complete():
    table = README.split("## What there is")[1].split("\n## ")[0]
    shown = set(re.findall(r"`(\w+)`", table))
    missing = {stem for folder in CONTRACTS if folder != "ship" for stem in stems(folder)} - shown
    assert not missing


def test_every_link_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [
        (page, link) for page in pages for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8"))
    ]
    assert not [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
