"""`make` on a stranger's folder: the whole chain, what it leaves, and what it refuses before any work is done."""

import json
import shlex

import pytest
from PIL import Image

import marrow
from marrow.cli import main
from marrow.core.artifact import Artifact
from marrow.core.errors import MarrowError
from marrow.data import open_source

from ..messy import messy
from .pieces import COLOURS, flat, photos


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("make")
    data = photos(root / "photos", junk=True)
    before = sorted(p.relative_to(data) for p in data.rglob("*"))
    report = marrow.make(str(data), img_size=32, batch=16, epochs=6, out=root / "run", device="cpu", quiet=True)
    return data, before, report, root / "run"


def test_the_report_has_every_row_with_its_interval_and_latency(made):
    _, _, report, out = made
    assert [r["name"] for r in report["rows"]] == [
        "teacher",
        "baseline",
        "student",
        "pruned",
        "int8",
        "fp32",
        "student_int8",
    ]
    for row in report["rows"]:
        low, high = row["ci95"]
        assert row["metric"] == "top1" and row["split"] == "test" and low <= row["value"] <= high
        assert row["latency_ms"]["runtime"] == "onnxruntime" and row["latency_ms"]["median"] > 0 and row["bytes"] > 0
    assert json.loads((out / "report.json").read_text())["verdict"] == report["verdict"]


def test_the_folder_holds_what_was_promised(made):
    _, _, report, out = made
    for name in ("teacher", "baseline", "student", "pruned", "int8"):
        assert Artifact.open(out / name).meta["labels"] == sorted(COLOURS)
    by = {r["name"]: r for r in report["rows"]}
    assert by["pruned"]["params"] < 0.8 * by["student"]["params"] and by["pruned"]["macs"] < by["student"]["macs"]
    assert (out / "model.onnx").read_bytes() == (out / "fp32" / "model.onnx").read_bytes()
    assert (out / "model.int8.onnx").stat().st_size < 0.3 * (out / "model.onnx").stat().st_size
    page = (out / "report.html").read_text()
    assert "cat &amp; &lt;b&gt;dog" in page and "<b>dog" not in page
    assert str(out.parent) not in page + (out / "report.json").read_text()


def test_the_data_folder_is_as_it_was(made):
    data, before, _, _ = made
    assert sorted(p.relative_to(data) for p in data.rglob("*")) == before


def test_the_shipped_file_answers(made):
    data, _, report, out = made
    rows = marrow.predict(out / report["ship"], [data / "ant" / "1.png", data / "ant" / "cut off.png"])
    assert rows[0]["label"] in COLOURS and "error" in rows[1]


def test_the_same_call_makes_nothing_again(made, capsys):
    data, _, first, out = made
    written = {n: (out / n / "artifact.json").stat().st_mtime_ns for n in ("teacher", "baseline", "student", "int8")}
    again = marrow.make(str(data), img_size=32, batch=16, epochs=6, out=out, device="cpu")
    assert "finished before are kept" in capsys.readouterr().err
    assert {n: (out / n / "artifact.json").stat().st_mtime_ns for n in written} == written
    assert [r["value"] for r in again["rows"]] == [r["value"] for r in first["rows"]]


def test_what_it_took_stands_beside_what_was_expected(made):
    _, _, report, out = made
    expected, took = report["estimate"], report["actual"]
    assert {"teacher", "baseline", "student", "pruned", "int8", "all"} <= expected["minutes"].keys() & took[
        "minutes"
    ].keys()
    assert took["minutes"]["all"] > took["minutes"]["teacher"] > 0
    assert expected["disk"] > 0 and took["disk"] > (out / "model.onnx").stat().st_size and took["memory"] > 10**8


def test_another_call_into_the_same_folder_lists_what_differs(made):
    data, _, _, out = made
    with pytest.raises(MarrowError, match=r"holds another run\n  stages\[0\].steps: \d+ there, \d+ now"):
        marrow.make(str(data), img_size=32, batch=16, epochs=7, out=out, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def small(made, tmp_path_factory):
    """A tiny untrained net as a file of weights would be, and a classifier that knows the colours."""
    root = tmp_path_factory.mktemp("small")
    net = marrow.backbone("resnet10t", channels=(16, 16, 16, 16), stem_width=16, img_size=32)
    marrow.save(root / "net", net)
    return root, flat(root / "flat", 100), made[3] / "teacher"


def test_without_labels_the_teacher_is_agreed_with_and_a_missed_budget_can_be_accepted(small):
    root, data, teacher = small
    same = {
        "teacher": str(teacher),
        "student": str(root / "net"),
        "img_size": 32,
        "batch": 16,
        "epochs": 6,
        "quiet": True,
    }
    missed = marrow.make(str(data), max_size="12kB", max_drop=100.0, out=root / "agree", **same)
    rows = {r["name"]: r for r in missed["rows"]}
    assert rows["student"]["metric"] == "agreement" and rows["teacher"]["value"] is None and rows["baseline"]["reason"]
    assert missed["verdict"].startswith("Budget not met: size ") and [b["met"] for b in missed["budgets"]] == [
        False,
        True,
    ]
    option, value = missed["accept"].split()[:2]
    assert option == "--max-size"
    written = {f: f.stat().st_mtime_ns for f in (root / "agree").glob("*/artifact.json")}
    again = marrow.make(str(data), max_size=value, max_drop=100.0, out=root / "agree", **same)
    assert again["accept"] is None and all(b["met"] for b in again["budgets"])
    assert {f: f.stat().st_mtime_ns for f in written} == written


def test_the_command_that_accepts_is_printed_and_accepts(small, capsys):
    root, data, teacher = small
    words = ["make", "--data", str(data), "--teacher", str(teacher), "--student", str(root / "net"), "--img-size", "32",
             "--batch", "16", "--epochs", "6", "--out", str(root / "agree"), "--max-size=12kB"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 3 and "Budget not met: size" in said.out
    offered = shlex.split(said.err.strip().splitlines()[-1].partition("accept the nearest file with: marrow ")[2])
    assert offered[:3] == ["make", "--data", str(data)] and "--max-size=12kB" not in offered
    with pytest.raises(SystemExit) as ended:
        main(offered)
    assert not ended.value.code and "Inside the budget: size" in capsys.readouterr().out


def test_missed_minutes_alone_end_with_3_too(small, capsys):
    root, data, teacher = small
    words = ["make", "--data", str(data), "--teacher", str(teacher), "--student", str(root / "net"), "--img-size", "32",
             "--batch", "16", "--skip", "prune,int8", "--minutes", "0.01", "--out", str(root / "late")]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(words)
    said = capsys.readouterr()
    assert ended.value.code == 3 and "Budget not met: minutes" in said.out
    offered = shlex.split(said.err.strip().splitlines()[-1].partition("accept the nearest file with: marrow ")[2])
    assert "--minutes" not in offered and offered[-2:] == ["--out", str(root / "late")]
    with pytest.raises(SystemExit) as ended:
        main(offered)
    assert not ended.value.code


def test_without_labels_and_classes_neighbours_are_compared(small):
    root, data, _ = small
    report = marrow.make(str(data), teacher=str(root / "net"), student=str(root / "net"), img_size=32, batch=16, epochs=1,
                         out=root / "alike", skip=("prune",), quiet=True)  # fmt: skip
    rows = {r["name"]: r for r in report["rows"]}
    assert rows["int8"]["metric"] == "knn_agreement" and 0 <= rows["int8"]["value"] <= 1
    assert rows["int8"]["more"]["chance"] < 0.2 and report["confusion"] is None and report["task"] == "embed"
    assert marrow.load(root / "alike" / report["ship"]).outputs == ["embedding"]
    with pytest.raises(MarrowError, match="--max-drop: without labels .* no accuracy to lose"):
        marrow.make(str(data), teacher=str(root / "net"), max_drop=1.0, quiet=True)


def test_a_messy_folder_goes_through(small, tmp_path):
    root, _, _ = small
    counts = messy(tmp_path / "photos")
    classes = open_source({"images": str(tmp_path / "photos"), "split": "train"}).classes
    sure = marrow.task("classify", backbone=marrow.load(root / "net"), classes=len(classes))
    sure.head.weight.data.mul_(100.0)  # no knowledge, but no doubts either: methods refuse a teacher that knows nothing
    sure.labels = classes
    marrow.save(tmp_path / "teacher", sure)
    report = marrow.make(str(tmp_path / "photos"), teacher=str(tmp_path / "teacher"), student=str(root / "net"), img_size=32,
                         batch=16, epochs=1, skip=("prune", "int8"), out=tmp_path / "run", quiet=True)  # fmt: skip
    assert report["ship"] == "fp32" and report["rows"][0]["n"] == report["data"]["test"]
    found = {f["what"]: f["count"] for f in report["findings"]}
    of_images = {what: n for what, n in counts.items() if not what.startswith("classes ")}  # val was cut from them
    assert len(of_images) > 20 and {what: found.get(what) for what in of_images} == of_images
    page = (tmp_path / "run" / "report.html").read_text()
    assert "=cmd &lt;b&gt;" in page and "=cmd <b>" not in page


def test_a_dry_run_writes_nothing(small, tmp_path, monkeypatch):
    root, data, teacher = small
    monkeypatch.chdir(tmp_path)
    planned = marrow.make(str(data), teacher=str(teacher), student=str(root / "net"), img_size=32, batch=16, epochs=1,
                          dry_run=True)  # fmt: skip
    assert [s["stage"] for s in planned["stages"]][:2] == ["student", "cut"] and planned["estimate"]["minutes"][
        "all"
    ] > 0
    assert "In all about" in planned["takes"] and list(tmp_path.iterdir()) == []


def refused(data, **options):
    with pytest.raises(MarrowError) as caught:
        marrow.make(str(data), quiet=True, **options)
    return str(caught.value)


def test_an_empty_folder(tmp_path):
    (tmp_path / "none").mkdir()
    assert "no image" in refused(tmp_path / "none", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class(tmp_path):
    said = refused(photos(tmp_path / "one", classes={"ant": (1, 2, 3)}), out=tmp_path / "run")
    assert "only one class, 'ant'; two or more are needed" in said and not (tmp_path / "run").exists()


def test_a_class_with_one_image(tmp_path):
    data = photos(tmp_path / "few")
    (data / "dodo").mkdir()
    Image.new("RGB", (40, 40)).save(data / "dodo" / "last.png")
    said = refused(data, out=tmp_path / "run")
    assert "too few in 'dodo' (" in said and not (tmp_path / "run").exists()


def test_no_labels_and_no_teacher(tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for i in range(20):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(flat / f"{i}.png")
    assert (
        refused(flat, out=tmp_path / "run") == "--data: no labels and no teacher: give --teacher or class sub-folders"
    )


def test_a_path_that_is_not_there(tmp_path):
    (tmp_path / "photos").mkdir()
    assert "no file or folder" in refused(tmp_path / "potos") and "'photos'" in refused(tmp_path / "potos")


def test_out_inside_the_data(tmp_path):
    data = photos(tmp_path / "photos")
    assert "lies inside the data" in refused(data, out=data / "run", epochs=1, img_size=32)
    assert not (data / "run").exists()


def test_an_unknown_student(tmp_path):
    said = refused(photos(tmp_path / "photos"), student="resnet81", out=tmp_path / "run", img_size=32)
    assert "--student: unknown model 'resnet81'; did you mean" in said and not (tmp_path / "run").exists()
