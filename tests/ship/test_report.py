"""The report page: what it says, that nothing gets out of it or into it, and that it works in a browser."""

import base64
import hashlib
import html.parser
import io
import json
import re

import pytest
from PIL import Image

from marrow.core.errors import MarrowError
from marrow.ship import report
from marrow.ship.interval import wilson

from .browser import Browser, missing

NASTY = "<script>alert(1)</script>\n\"'><img src=https://evil.example/x onerror=alert(2)> & =cmd ../.."


def row(name, right, ms, size, **more):
    latency = {"runtime": "onnxruntime", "batch": 1, "threads": 1, "median": ms, "p90": ms * 1.1}
    return {"name": name, "kind": "task", "metric": "top1", "value": right / 500, "n": 500, "split": "test",
            "ci95": list(wilson(right, 500)), "params": 11_173_962, "macs": 37_000_000, "bytes": size,
            "latency_ms": latency, **more}  # fmt: skip


def sample(**changes):
    rows = [
        row("teacher", 493, 2.1, 44_720_000),
        row("baseline", 482, 0.452, 10_930_000),
        row("student", 492, 0.45, 10_930_000, more={"balanced_top1": 0.981}),
        {"name": "pruned", "kind": None, "metric": None, "value": None, "reason": "the student was not pruned"},
        row("int8", 491, 0.35, 2_900_000),
    ]
    return {"task": "classify", "name": "digits", "data": {"images": "digits"}, "device": {"cpu": "any"}, "rows": rows,
            "baseline": "the student trained without the teacher", "ship": "int8",
            "verdict": "Ship int8.\nIt is small.", **changes}  # fmt: skip


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (32, 32), 90).save(file, "png")
    return file.getvalue()


CURVES = {
    "teacher": [(0, "loss", 2.3), (10, "loss", 1.1), (10, "lr", 0.1), (10, "val/top1", 0.5), (20, "val/top1", 0.9)],
    "student": [
        (0, "loss", 2.0),
        (0, "sym_kl", 2.0),
        (9, "loss", 1.0),
        (9, "sym_kl", 1.0),
        (9, "val/top1", 0.8),
        (9, "agreement", 0.7),
        (10, "grad_norm", 3.0),
    ],
}


def full(text="x"):
    """Every part a report can have, with `text` wherever a user's words may stand."""
    given = sample(name=text, verdict=text, baseline=text, task=text, data={text: text}, device={text: [text]},
                   choices=[{"what": text, "value": text, "reason": text}],
                   budgets=[{"what": text, "limit": text, "value": text, "met": False}],
                   confusion={"of": text, "labels": [text, "b"], "counts": [[9, 1], [0, 10]]},
                   estimate={text: 1.0}, actual={text: 2.0}, minutes={text: 1.0}, recipe=text, use=[text],
                   findings=[{"severity": text, "what": text, "count": 1234, "examples": [text, text], "remedy": text}],
                   lineage=[{"name": text, "kind": text, "hash": "a" * 64, "parents": ["b" * 64]}],
                   licences=[{"of": text, "name": text, "licence": text, "terms": text}])  # fmt: skip
    given["rows"][0] |= {"kind": text, "reason": text, "parity": {text: text}}
    given["rows"].append(row(text, 480, 1.0, 5_000))
    given["rows"][3]["reason"] = text
    pictures = [{"png": png(), "label": text, "teacher": text, "student": text}]
    return given, {"curves": {**CURVES, text: [(1, text, 1.0), (2, text, 2.0)]}, "thumbnails": pictures}


class Page(html.parser.HTMLParser):
    """Tags with their attributes, and the text outside style and script."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.inside = [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"style", "script"} & set(self.inside):
            self.text += data


def written(tmp_path, given, **more):
    return report.write(given, tmp_path / "report.html", **more).read_text(encoding="utf-8")


def test_the_page_says_what_the_report_holds(tmp_path):
    page = Page(written(tmp_path, sample(), curves=CURVES)).text.replace("\N{NO-BREAK SPACE}", " ")
    for said in ("Ship int8.", "98.2 %", "96.6 to 99.1", "0.35 ms", "2.90 MB", "the student was not pruned",
                 "6.0× faster than the teacher", "+2.0 points", "500 test", "onnxruntime, batch 1, 1 thread",
                 "11.2 M", "37.0 M", "98.1 %", "Top-1 on validation images"):  # fmt: skip
        assert said in page, said


def test_what_is_wrong_with_the_data_is_a_table(tmp_path):
    found = [{"severity": "warning", "what": "empty files", "count": 1234, "examples": ["cat/0.png", "<b>.png"],
              "remedy": "Delete them."},
             {"severity": "note", "what": "grey images", "count": 2, "examples": [], "remedy": "Read all the same."}]  # fmt: skip
    page = Page(written(tmp_path, sample(findings=found)))
    rows = [line.split() for line in page.text.split("finding")[1].splitlines() if line.strip()]
    assert rows[0] == ["warning1,234empty", "filescat/0.png;", "<b>.pngDelete", "them."]
    assert rows[1] == ["note2grey", "imagesRead", "all", "the", "same."]
    assert ("section", {"id": "data"}) in page.tags and "b" not in {tag for tag, _ in page.tags}
    assert 'id="data"' not in written(tmp_path, sample())


def test_only_what_is_required_is_enough(tmp_path):
    text = written(
        tmp_path, {"rows": [{"name": "teacher", "value": None, "reason": "none given"}], "verdict": "Nothing."}
    )
    assert "none given" in Page(text).text and "<svg" not in text


def test_curves_are_of_the_model_and_in_the_order_of_the_chain(tmp_path):
    text = written(tmp_path, sample(), curves=dict(sorted(CURVES.items())))
    assert text.index("losses of teacher") < text.index("losses of student")
    legends = re.findall(r'<p class="legend">(.*?)</p>', text)
    shown = [re.sub("<[^>]*>", " ", legend).split() for legend in legends]
    # One share a chart; the sum of a single loss is not drawn beside it; rates and norms are not drawn at all.
    assert shown == [["teacher", "student"], ["student"], ["loss"], ["sym_kl"]]


def test_latencies_of_two_runtimes_are_not_divided(tmp_path):
    given = sample()
    given["rows"][0]["latency_ms"]["runtime"] = "torch"
    page = Page(written(tmp_path, given)).text
    assert "faster than the teacher" not in page
    assert "in torch, batch 1, 1 thread" in page


def test_a_slower_file_is_called_slower(tmp_path):
    given = sample()
    given["rows"][4]["latency_ms"]["median"] = 4.2
    assert "2.0× slower than the teacher" in Page(written(tmp_path, given)).text


def test_nobody_s_words_become_markup(tmp_path):
    given, more = full(NASTY)
    plain_given, plain_more = full("plain\nwords")
    harmless = Page(written(tmp_path, plain_given, **plain_more))
    page = Page(written(tmp_path, given, **more))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in harmless.tags]
    assert page.text.count("<script>alert(1)</script>") >= 20


def test_nothing_is_asked_of_a_network(tmp_path):
    given, more = full()
    text = written(tmp_path, given, **more)
    assert not re.search(r"https?:|//[a-z]", text.split("<script>")[0])
    for _, attributes in Page(text).tags:
        for name in ("src", "href", "srcset", "action", "data"):
            assert attributes.get(name, "data:").startswith("data:")
        assert not [name for name in attributes if name == "style" or name.startswith("on")]


def test_the_policy_allows_this_style_and_this_script_alone(tmp_path):
    text = written(tmp_path, sample())
    policy = next(a["content"] for t, a in Page(text).tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["img-src"] == "data:"
    for tag in ("style", "script"):
        (inline,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"


def test_a_thumbnail_that_is_no_png_is_refused(tmp_path):
    with pytest.raises(MarrowError, match="not a PNG"):
        written(tmp_path, sample(), thumbnails=[{"png": b"<svg>", "label": "", "teacher": "", "student": ""}])
    assert not list(tmp_path.iterdir())


def run_folder(path, given):
    (path / "logs").mkdir(parents=True)
    (path / "report.json").write_text(json.dumps(given), encoding="utf-8")
    (path / "logs" / "student.csv").write_text("step,name,value\n1,loss,2.0\n5,loss,1.0\n5,val/top1,0.7\n")
    return path


def test_one_run_folder_gives_its_page_with_curves(tmp_path):
    page = report.from_runs([run_folder(tmp_path / "a", sample())], tmp_path / "out.html").read_text(encoding="utf-8")
    assert "Ship int8." in page and "Losses" not in page and 'aria-label="losses of student"' in page


def test_several_run_folders_are_compared(tmp_path):
    folders = [run_folder(tmp_path / "a" / "birds", sample()),
               run_folder(tmp_path / "b" / "birds", sample(ship="student", verdict="Ship the student."))]  # fmt: skip
    page = Page(report.from_runs(folders, tmp_path / "out.html").read_text(encoding="utf-8")).text
    assert "2 runs side by side" in page and "birds (2)" in page and "Ship the student." in page


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no report.json"),
        ("{", "not JSON"),
        ('{"verdict": ""}', "no list of named rows"),
        ('{"rows": []}', "no verdict"),
    ],
)
def test_what_is_no_run_folder_is_named(tmp_path, content, said):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(MarrowError, match=said) as error:
        report.from_runs([tmp_path], tmp_path / "out.html")
    assert str(tmp_path) in str(error.value) and not (tmp_path / "out.html").exists()


def test_a_damaged_log_is_named_with_its_line(tmp_path):
    folder = run_folder(tmp_path / "a", sample())
    (folder / "logs" / "student.csv").write_text("step,name,value\n1,loss,2.0\n2,loss\n")
    with pytest.raises(MarrowError, match=r"student.csv: line 3"):
        report.from_runs([folder], tmp_path / "out.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if absent := missing():
        pytest.skip(absent)
    with Browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_complaint_or_request(browser, tmp_path, width):
    given, more = full(NASTY)
    written(tmp_path, given, **more)
    browser.look(width)
    browser.requests(), browser.console()
    browser.open(tmp_path / "report.html")
    assert browser.console() == []
    assert {url.split(":")[0] for url in browser.requests()} == {"file", "data"}
    assert browser.run("return document.documentElement.scrollWidth") <= width
    seen = (
        "return [...document.querySelectorAll('#pareto svg')].filter(e => e.getBoundingClientRect().width > 200).length"
    )
    assert browser.run(seen) == 1  # of the two widths, one
    assert browser.run("return [...document.images].every(e => e.complete && e.naturalWidth === 32)")


@pytest.mark.browser
def test_dark_is_dark(browser, tmp_path):
    written(tmp_path, sample())
    shades = []
    for dark in (False, True):
        browser.look(1280, dark)
        browser.open(tmp_path / "report.html")
        shades.append(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert shades == ["rgb(255, 255, 255)", "rgb(18, 20, 22)"]


@pytest.mark.browser
def test_a_click_sorts_and_keeps_what_is_missing_last(browser, tmp_path):
    written(tmp_path, sample())
    browser.open(tmp_path / "report.html")

    def click(column: int) -> list[str]:
        browser.run("document.querySelectorAll('#models thead button')[arguments[0]].click()", column)
        return browser.run("return [...document.querySelectorAll('#models tbody th')].map(e => e.dataset.sort)")

    by_latency = ["int8", "student", "baseline", "teacher"]
    assert click(2) == [*by_latency, "pruned"]
    assert click(2) == [*reversed(by_latency), "pruned"]
    assert click(0) == ["baseline", "int8", "pruned", "student", "teacher"]
    assert browser.run("return document.querySelector('#models th').getAttribute('aria-sort')") == "ascending"


@pytest.mark.browser
def test_a_script_that_is_not_ours_does_not_run(browser, tmp_path):
    text = written(tmp_path, sample())
    (tmp_path / "altered.html").write_text(text.replace("</main>", "<script>document.title = 'run'</script></main>"))
    browser.open(tmp_path / "altered.html")
    assert browser.run("return document.title") == "digits · marrow"
    assert any("Content Security Policy" in entry["message"] for entry in browser.console())
