"""The pages of the systems: each claim and backbone has one, their Python runs, their numbers are those of the nets."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from marrow import backbones as backbones  # registers them
from marrow.claims import known
from marrow.core.cost import cost
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.segment import Segment

ROOT = Path(__file__).parent.parent
PAGES = {page.stem: page.read_text("utf-8") for page in sorted((ROOT / "docs" / "systems").glob("*.md"))}
FACT = re.compile(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| ([\d,]+) M \|$", re.MULTILINE)


def registered() -> set[str]:
    names = set()
    for file in (ROOT / "src" / "marrow" / "backbones").glob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef) and any("register" in ast.unparse(d) for d in node.decorator_list):
                names.add(node.name)
    return names


def test_every_claim_and_every_backbone_has_its_page():
    shown = {name for text in PAGES.values() for name in re.findall(r"<!-- claim (\w+) -->", text)}
    assert not set(known()) - shown
    assert not registered() - {name for text in PAGES.values() for name in re.findall(r"`(\w+)`", text)}


def test_every_page_is_in_the_menu():
    menu = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert not [stem for stem in PAGES if f"systems/{stem}.md" not in menu]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_shape_of_the_others(page):
    parts = re.findall(r"^## (.+)$", PAGES[page], re.MULTILINE)
    assert parts[:1] == ["Use"] and {"What we measured", "Deviations"} <= set(parts)


def test_the_python_of_the_pages_runs(tmp_path):
    pytest.importorskip("skimage", reason="the extra histology is not installed")
    scripts = [
        text for page in PAGES.values() for text in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(scripts)], cwd=tmp_path, capture_output=True, text=True,
                          timeout=250)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "(11, 64, 96)" in done.stdout and "'resnetrs50'" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side", "params", "macs"), FACT.findall("\n".join(PAGES.values())))
def test_the_numbers_are_those_of_the_nets(name, side, params, macs):
    classes = 10 if int(side) == 32 else 1000
    with torch.device("meta"):
        net = timm.create_model(name, num_classes=classes)
        found = cost(TimmBackbone.create(name, img_size=int(side)))
    head = net.num_features * classes  # `cost` leaves the classifier out
    assert f"{sum(p.numel() for p in net.parameters()):,}" == params
    assert f"{round((found.macs + head) / 1e6):,}" == macs


DECODER = re.compile(r"^\| (semantic FPN|DeepLabV3\+) \| (\d+) \| ([\d,]+) \| ([\d,]+) M \|$", re.MULTILINE)


@pytest.mark.slow
def test_the_numbers_of_the_decoders_are_theirs():
    rows = DECODER.findall(PAGES["segment"])
    assert len(rows) == 4
    for name, width, params, macs in rows:
        with torch.device("meta"):
            alone, below = (TimmBackbone.create("resnet18", img_size=224) for _ in range(2))
            task = Segment(below, classes=11, decoder="fpn" if "FPN" in name else "deeplab", width=int(width))
            whole, net = cost(task), cost(alone)
        assert (f"{whole.params - net.params:,}", f"{round((whole.macs - net.macs) / 1e6):,}") == (params, macs)


def test_the_tables_of_facts_are_found():
    assert len(FACT.findall("\n".join(PAGES.values()))) >= 28


def hook():
    spec = importlib.util.spec_from_file_location("from_sources", ROOT / "docs" / "from_sources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_claim_becomes_a_table_or_says_that_it_was_not_run():
    row = {"system": "x", "says": "a beats b", "measure": "miou", "arms": {"a": [0.5, 0.6], "b": [0.4, 0.4]}, "better": "a",
           "than": "b", "by": 0.02, "difference": 0.15, "ci95": [-0.01, 0.3], "over_baseline": {"a": 0.15}, "seeds": [0, 1],
           "verdict": "undecided", "data": "scenes", "unlike": "Small.", "minutes": 3.2}  # fmt: skip
    text = "\n".join(hook().measured("x", [row]))
    assert "| a | 55.0 ± 5.0&nbsp;% | +15.0 |" in text and "| b | 40.0 ± 0.0&nbsp;% |  |" in text
    assert (
        "**Undecided**: 'a' is +15.0 points over 'b', 95 % interval -1.0 to +30.0, 2 seeds; 2 were asked for." in text
    )
    text = "\n".join(hook().measured("x", [{"system": "x", "says": "a beats b", "verdict": "not run yet"}]))
    assert text.endswith("It has not been run yet; `marrow claim x` runs it.")
    for page in PAGES.values():
        assert "<!-- claim" not in hook().on_page_markdown(page)
