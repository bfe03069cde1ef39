"""The report page: what it says, and that nothing gets out of it or into it."""

import base64
import hashlib
import re

import pytest

from marrow.core.errors import MarrowError
from marrow.ship import report

from .sample import CURVES, LIMITS, NASTY, Page, full, run_folder, sample, unlabelled, written


def test_the_page_says_what_the_report_holds(tmp_path):
    page = Page(written(tmp_path, sample(), curves=CURVES)).text.replace("\N{NO-BREAK SPACE}", " ")
    for said in ("Ship int8.", "98.2 %", "96.6 to 99.1", "0.35 ms", "2.90 MB", "the student was not pruned",
                 "6.0× faster than the teacher", "+2.0 points", "on 500 test images",
                 "11.2 M", "37.0 M", "98.1 %", "Top-1 on validation images", "onnxruntime, batch 1, 1 thread"):  # fmt: skip
        assert said in page, said


def test_what_is_wrong_with_the_data_is_listed(tmp_path):
    found = [{"severity": "warning", "what": "empty files", "count": 1234, "examples": ["cat/0.png", "<b>.png"],
              "remedy": "Delete them."},
             {"severity": "note", "what": "grey images", "count": 2, "examples": [], "remedy": "Read all the same."}]  # fmt: skip
    page = Page(written(tmp_path, sample(findings=found)))
    section = page.text.split("Circumstances")[0]
    assert "1,234 empty filescat/0.png; <b>.pngDelete them." in section and "2 grey imagesRead all the same." in section
    assert ("section", {"id": "data"}) in page.tags and "b.png" not in {tag for tag, _ in page.tags}
    assert 'id="data"' not in written(tmp_path, sample())


def test_a_missed_budget_comes_first_and_says_what_accepts_it(tmp_path):
    text = written(tmp_path, sample(budgets=LIMITS, accept="--max-latency 1ms --max-drop 0.4"))
    page = Page(text)
    assert text.index("1 of 2 budgets missed") < text.index('class="headlines"') < text.index('id="models"')
    assert ("div", {"class": "budgets missed"}) in page.tags
    said = page.text.replace("\N{NO-BREAK SPACE}", " ")
    assert said.index("0.4 points not within 0.1 points") < said.index("0.35 ms within 1 ms")
    assert "--max-latency 1ms --max-drop 0.4" in said


def test_met_budgets_ask_for_nothing(tmp_path):
    page = Page(written(tmp_path, sample(budgets=LIMITS[:1], accept="--max-latency 1ms")))
    assert "Budget met" in page.text and "--max-latency" not in page.text


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("agreement", "Agreement is how often a model answers as the teacher does, on 500 held-out images"),
        ("knn_agreement", "k-NN agreement is how many of an image's nearest neighbours are the same"),
    ],
)
def test_a_metric_without_labels_is_explained(tmp_path, metric, said):
    page = Page(written(tmp_path, unlabelled(metric))).text.replace("\N{NO-BREAK SPACE}", " ")
    assert said in page and "on 500 images without labels" in page and "by chance" in page and "2.0 %" in page
    assert "no labels to train it on" in page and "The baseline is" not in page and "the teacher has" not in page
    assert "it is asked" in page


def test_only_what_is_required_is_enough(tmp_path):
    text = written(
        tmp_path, {"rows": [{"name": "teacher", "value": None, "reason": "none given"}], "verdict": "Nothing."}
    )
    assert "none given" in Page(text).text and "<svg" not in text


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
    plain_given, plain_more = full(re.sub(r"[^\s./]", "x", NASTY))  # breaks in the same places
    harmless = Page(written(tmp_path, plain_given, **plain_more))
    page = Page(written(tmp_path, given, **more))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
    assert [sorted(a) for _, a in page.tags] == [sorted(a) for _, a in harmless.tags]
    assert page.text.count("<script>alert(1)</script>") >= 30


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


def test_one_run_folder_gives_its_page_with_curves(tmp_path):
    page = report.from_runs([run_folder(tmp_path / "a", sample())], tmp_path / "out.html").read_text(encoding="utf-8")
    assert "Ship int8." in page and "Top-1 on validation images" in page and 'aria-label="losses of student"' in page


def test_several_run_folders_are_compared(tmp_path):
    folders = [run_folder(tmp_path / "a" / "birds", sample()),
               run_folder(tmp_path / "b" / "birds", sample(ship="student", verdict="Ship the student."))]  # fmt: skip
    page = Page(report.from_runs(folders, tmp_path / "out.html").read_text(encoding="utf-8")).text
    assert "2 runs side by side" in page and "birds (2)" in page and "Ship the student." in page


def test_runs_of_different_metrics_stand_side_by_side_without_a_plot(tmp_path):
    folders = [run_folder(tmp_path / "a", sample(budgets=LIMITS)), run_folder(tmp_path / "b", unlabelled("agreement"))]
    page = Page(report.from_runs(folders, tmp_path / "out.html").read_text(encoding="utf-8"))
    assert "1 of 2 budgets missed" in page.text and "svg" not in {tag for tag, _ in page.tags}
    assert "int8, top-1" in page.text and "int8, agreement with the teacher" in page.text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no report.json"),
        ("{", "report.json is not JSON"),
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
