"""The curves on the page: which there are, what they are called, in which order."""

import re

import pytest

from marrow.core.errors import MarrowError
from marrow.ship import report

from .sample import CURVES, run_folder, sample, unlabelled, written


def legends(text):
    shown = re.findall(r'<p class="legend">(.*?)</p>', text)
    return [re.findall(r"</span>([^<]+)</span>", legend) for legend in shown]


def test_curves_are_of_the_model_and_in_the_order_of_the_chain(tmp_path):
    text = written(tmp_path, sample(), curves=dict(sorted(CURVES.items())))
    assert text.index("losses of teacher") < text.index("losses of student")
    # One meaning a chart; the sum of a single loss is not drawn beside it; rates and norms are not drawn at all.
    assert legends(text) == [["teacher", "student"], ["student"], ["loss"], ["sym kl"]]


def test_training_without_labels_has_curves_that_mean_something(tmp_path):
    log = [(step, name, 0.1 * step) for step in range(1, 9)
           for name in ("pooled", "cosine", "neighbour", "teacher_entropy", "dense_cosine")]  # fmt: skip
    text = written(tmp_path, unlabelled("knn_agreement"), curves={"student": log})
    titles = re.findall(r"<(?:h3|figcaption)>(.*?)</", text.split('id="training"')[1].split("</section>")[0])
    assert titles == ["Nearest neighbours as the teacher has them, on training images",
                      "Cosine with the teacher&#39;s features on training images",
                      "Cosine with the teacher&#39;s maps on training images",
                      "Entropy of the teacher&#39;s answers on training images", "Losses", "student"]  # fmt: skip
    assert legends(text)[-1] == ["pooled"] and "1 is the same direction" in text
    assert "60&nbsp;%" in text.replace("\N{NO-BREAK SPACE}", "&nbsp;") and ">0.6<" in text  # a share; a cosine


def test_a_probe_has_one_curve_of_its_own(tmp_path):
    log = [(step, name, 0.1 * step) for step in range(9) for name in ("pixels", "probe/miou", "probe/iou_road")]
    text = written(tmp_path, sample(), curves={"student": log})
    assert "Mean IoU, by a probe of the features" in text and "road" not in text.split('id="training"')[1]
    assert legends(text) == [["student"], ["pixels"]]


@pytest.mark.parametrize(("metric", "title"), [("top1", "Top-1"), ("balanced_top1", "Balanced top-1")])
def test_the_curve_on_validation_images_is_of_the_run_s_metric(tmp_path, metric, title):
    given = sample()
    for r in given["rows"]:
        r["metric"] = r["metric"] and metric
    log = [(s, name, 0.1 * s) for s in (1, 2, 3) for name in ("val/top1", "val/balanced_top1")]
    shown = re.findall(r"<h3>(.*? on validation images)", written(tmp_path, given, curves={"student": log}))
    assert shown == [f"{title} on validation images"]


def test_stages_that_ended_early_are_told(tmp_path):
    text = written(tmp_path, sample(early=["The teacher stopped at step 40 of 100."]))
    assert "stopped at step 40" in text.split('id="training"')[1]


def test_a_damaged_log_is_named_with_its_line(tmp_path):
    folder = run_folder(tmp_path / "a", sample())
    (folder / "logs" / "student.csv").write_text("step,name,value\n1,loss,2.0\n2,loss\n")
    with pytest.raises(MarrowError, match=r"student.csv: line 3"):
        report.from_runs([folder], tmp_path / "out.html")
