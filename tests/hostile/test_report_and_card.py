"""Names that carry scripts, and results that tell of who made them: what is published holds neither."""

import getpass
import json
import os
import re
import socket

import numpy as np
import pytest
from PIL import Image

from marrow.core.errors import MarrowError
from marrow.run import run
from marrow.ship import card, report

from ..ship.browser import Browser, missing
from ..ship.sample import CURVES, Page, full, recalls, sample, written
from .inputs import refusal, rewrite, saved

NAMES = [
    "<script>document.title='harmed'</script>",
    "<img src=x onerror=\"document.title='harmed'\">",
    "\"'><svg/onload=document.title='harmed'>",
    "</style><script>document.title='harmed'</script>",
    "javascript:document.title='harmed'",
    "{{ 7 * 7 }}{% include 'x' %}",
    "=cmd|' /C calc'!A0",
    "a\nb\r\n# c\t| d",
    "\x00\x07\x1b[2J\x7f",
    "\u202egpj.exe\u202c\u2066x\u2069",
    "[link](javascript:alert(1)) ![i](https://example.invalid/x) `code` *b* _i_",
    "../../etc/passwd",
    "x" * 500,
]
HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def everywhere(value, name):
    """A report with every text in it replaced, but for what programs compare."""
    kept = ("name", "metric", "task", "ship", "severity", "split", "runtime", "kind", "of")
    if isinstance(value, dict):
        return {k: v if k in kept else everywhere(v, name) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [everywhere(v, name) for v in value]
    return name if isinstance(value, str) else value


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if absent := missing():
        pytest.skip(absent)
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


def nasty_page(folder, name):
    given, more = full(name)
    page = written(folder, everywhere(given, name), **{**more, "curves": {name: CURVES["student"], **CURVES}})
    return page


@pytest.mark.parametrize("name", NAMES)
def test_a_name_hides_nothing_and_opens_no_tag(tmp_path, name):
    page = nasty_page(tmp_path, name)
    assert not HIDDEN.search(page)
    tags = Page(page).tags
    assert [tag for tag, _ in tags].count("script") == 1
    for _, attributes in tags:
        values = dict(attributes)
        assert not any(key.startswith("on") for key in values)
        assert all((values.get(key) or "data:").startswith(("data:", "#")) for key in ("src", "href"))


@pytest.mark.browser
def test_no_script_of_a_name_runs(browser, tmp_path):
    for name in NAMES:
        nasty_page(tmp_path, name)
        browser.requests(), browser.console()
        browser.open(tmp_path / "report.html")
        assert browser.run("return document.title") != "harmed"
        assert {url.split(":")[0] for url in browser.requests()} <= {"file", "data"}
        assert browser.console() == []
        assert browser.run("return document.querySelectorAll('body script').length") == 1
        assert (
            browser.run(
                "return document.querySelectorAll('iframe, object, embed, [onerror], [onload], [onclick]').length"
            )
            == 0
        )


@pytest.mark.browser
def test_a_script_that_got_into_the_page_would_be_stopped(browser, tmp_path):
    page = written(tmp_path, sample())
    evil = "<img src=x onerror=\"document.title='harmed'\"><script>document.title='harmed'</script>"
    (tmp_path / "report.html").write_text(page.replace("</main>", evil + "</main>"), encoding="utf-8")
    browser.open(tmp_path / "report.html")
    assert browser.run("return document.title") != "harmed"


@pytest.mark.parametrize("name", NAMES)
def test_a_card_takes_names_as_text(tmp_path, name):
    folder = saved("task", tmp_path / "made")
    licence = [{"of": name, "name": name, "licence": name, "terms": name}]
    rewrite(folder, lambda m: m.update(labels=[name, "b", "c"], licences=licence))
    text = card.text(json.loads((folder / "artifact.json").read_text()))
    assert not HIDDEN.search(text)
    for line in text.splitlines():
        assert "<script" not in line and "<img" not in line and not re.search(r"(?<!\\)\[link", line)
        assert not line.startswith("# c")
        assert line.count("|") - line.count("\\|") in (0, 4, 5, 3, 6) or not line.startswith("|")


SPOILT = {
    "rows of text": {"rows": [{"name": "teacher", "value": "<b>"}]},
    "rows of lists": {"rows": [{"name": [1], "metric": {}}]},
    "a value of a list": {"rows": [{"name": "teacher", "metric": "top1", "value": [1], "n": "x"}]},
    "latency of text": {"rows": [{"name": "teacher", "metric": "top1", "value": 1, "latency_ms": "x"}]},
    "bytes of text": {"rows": [{"name": "teacher", "metric": "top1", "value": 1, "bytes": "x"}]},
    "interval of one": {"rows": [{"name": "teacher", "metric": "top1", "value": 1, "ci95": [1]}]},
    "budgets of numbers": {"budgets": [1]},
    "choices of numbers": {"choices": 3},
    "layers of nothing": {"layers": {"of": [], "rows": [{}]}},
    "confusion of one": {"confusion": {"of": 1, "labels": [1], "counts": 3}},
    "classes of text": {"per_class": ["x"]},
    "findings of text": {"findings": "x"},
    "lineage of text": {"lineage": [3]},
    "estimate of text": {"estimate": "x", "actual": 3},
    "ship of a list": {"ship": [1]},
    "use of numbers": {"use": [1]},
    "data of a list": {"data": [1]},
}


@pytest.mark.parametrize("name", SPOILT)
def test_reports_that_lie_about_their_types(tmp_path, name):
    given = {**sample(), **SPOILT[name]}
    (tmp_path / "report.json").write_text(json.dumps(given), encoding="utf-8")
    try:
        report.from_runs([tmp_path], tmp_path / "out.html")
    except MarrowError as error:
        assert "report.json" in str(error)
        return
    assert not HIDDEN.search((tmp_path / "out.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[" * 100_000, b'{"rows": [], "rows": [], "verdict": ""}', b'{"rows": [NaN]}', b"\xff\xfe"]
)
def test_reports_that_are_no_json(tmp_path, content):
    (tmp_path / "report.json").write_bytes(content)
    refusal(lambda: report.from_runs([tmp_path], tmp_path / "out.html"), "report.json")


def test_nothing_that_is_published_tells_of_path_host_or_user(tmp_path, monkeypatch):
    place = tmp_path / "zq-person-of-secret"
    generator = np.random.default_rng(0)
    for label in ("<b>ant", "=bee"):
        (place / "photos" / label).mkdir(parents=True)
        for i in range(24):
            pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / "photos" / label / f"{i}.png")
    monkeypatch.chdir(place)
    data = [{"images": str(place / "photos"), "split": "train"}]
    net = {"backbone": "resnet10t", "img_size": 32, "channels": [8, 8, 16, 16], "stem_width": 8}
    recipe = {
        "stages": [
            {"teach": "supervised", "task": {"task": "classify", "backbone": net, "classes": 2}, "name": "made", "steps": 2,
             "data": {"train": data, "val": data, "batch": 8}},
            {"ship": "onnx", "model": {"stage": 0}, "data": {"parity": data}, "name": "shipped"},
        ]
    }  # fmt: skip
    run(recipe, place / "run", device="cpu", quiet=True)
    published = [f for name in ("made", "shipped") for f in (place / "run" / name).iterdir()]
    assert {"artifact.json", "README.md", "weights.safetensors", "model.onnx"} <= {f.name for f in published}
    told = {"name": "digits", "curves": CURVES, "per_class": recalls()}
    (place / "run" / "report.json").write_text(json.dumps({**sample(), **told}), encoding="utf-8")
    published.append(report.from_runs([place / "run"], place / "report.html"))
    private = {str(place), "zq-person", str(tmp_path), os.path.expanduser("~") + "/", os.getcwd()}
    private |= {w for w in (getpass.getuser(), socket.gethostname()) if len(w) > 5}
    for file in published:
        content = file.read_bytes()
        for word in private:
            assert word.encode() not in content, f"{file.name} tells {word}"
