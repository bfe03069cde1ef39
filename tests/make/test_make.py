"""`make` on a stranger's folder: the whole chain, what it leaves, and what it refuses before any work is done."""

import json
import math

import pytest
import torch
from PIL import Image

import marrow
from marrow.core.artifact import Artifact
from marrow.core.errors import MarrowError

COLOURS = {"ant": (200, 40, 40), "bee": (40, 200, 40), "cat & <b>dog": (40, 40, 200)}


def photos(folder, each=40, classes=COLOURS, junk=False):
    """Noisy pictures, one colour a class; with `junk` also files that are no pictures."""
    draw = torch.Generator().manual_seed(0)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(each):
            noise = torch.randn(36, 44, 3, generator=draw) * 60 + torch.tensor(colour)
            Image.fromarray(noise.clamp(0, 255).byte().numpy()).save(folder / name / f"{i}.png")
        if junk:
            whole = (folder / name / "0.png").read_bytes()
            (folder / name / "cut off.png").write_bytes(whole[: len(whole) // 2])
            (folder / name / "empty.jpg").write_bytes(b"")
            (folder / name / "a text.png").write_text("not a picture")
            (folder / name / "notes.txt").write_text("skipped without a word")
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("make")
    data = photos(root / "photos", junk=True)
    before = sorted(p.relative_to(data) for p in data.rglob("*"))
    report = marrow.make(str(data), img_size=32, batch=16, epochs=6, out=root / "run", device="cpu", quiet=True)
    return data, before, report, root / "run"


def test_the_report_has_every_row_with_its_interval_and_latency(made):
    _, _, report, out = made
    assert [r["name"] for r in report["rows"]] == ["teacher", "baseline", "student", "pruned", "int8", "fp32"]
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


def test_the_same_call_makes_nothing_again(made):
    data, _, first, out = made
    written = {n: (out / n / "artifact.json").stat().st_mtime_ns for n in ("teacher", "baseline", "student", "int8")}
    again = marrow.make(str(data), img_size=32, batch=16, epochs=6, out=out, device="cpu", quiet=True)
    assert {n: (out / n / "artifact.json").stat().st_mtime_ns for n in written} == written
    assert [r["value"] for r in again["rows"]] == [r["value"] for r in first["rows"]]


def test_another_call_into_the_same_folder_lists_what_differs(made):
    data, _, _, out = made
    with pytest.raises(MarrowError, match=r"holds another run\n  stages\[0\].steps: \d+ there, \d+ now"):
        marrow.make(str(data), img_size=32, batch=16, epochs=7, out=out, device="cpu", quiet=True)


def test_a_teacher_that_is_there_already_is_taken(made, tmp_path):
    data, _, _, out = made
    from marrow.make.plan import Wishes, plan

    stages = plan(Wishes(data=str(data), teacher=str(out / "teacher"), img_size=32, batch=16, epochs=1)).recipe[
        "stages"
    ]
    assert [s["name"] for s in stages] == ["baseline", "student", "cut", "pruned", "fp32", "int8"]
    assert stages[1]["teacher"] == {"artifact": str(out / "teacher")}
    others = photos(tmp_path / "others", classes={"x": (9, 9, 9), "y": (250, 250, 250)})
    with pytest.raises(MarrowError, match="--teacher: its classes .* are not the data's"):
        plan(Wishes(data=str(others), teacher=str(out / "teacher")))
    with pytest.raises(MarrowError, match="--teacher: no artifact at resnet50"):
        plan(Wishes(data=str(data), teacher="resnet50"))


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
    assert "unknown backbone 'resnet81'; did you mean" in said and not (tmp_path / "run").exists()


def test_the_plan_for_the_digits_hides_the_test_split():
    from marrow.make.plan import Wishes, plan

    chosen = plan(Wishes())
    text = json.dumps(chosen.recipe)
    assert '"split": "test"' not in text and chosen.test["split"] == "test"
    assert chosen.data["labels of the baseline"] == 50 and chosen.name.startswith("digits-")
    assert chosen.name != plan(Wishes(seed=1)).name and chosen.name == plan(Wishes()).name


def test_pruning_can_be_left_out_and_nothing_else():
    from marrow.make.plan import Wishes, plan

    stages = plan(Wishes(skip=("prune",))).recipe["stages"]
    assert [s["name"] for s in stages] == ["teacher", "baseline", "student", "fp32", "int8"]
    assert stages[-1]["model"] == {"stage": "student"}
    with pytest.raises(MarrowError, match="--skip: 'teacher' cannot be left out; known: prune"):
        plan(Wishes(skip=("teacher",)))


@pytest.mark.parametrize("count", [12, 100, 640, 5000])
def test_a_batch_is_a_power_of_two_below_a_tenth_of_the_images(count):
    from marrow.make.plan import usual_batch

    batch = usual_batch(count)
    assert batch == 2 ** round(math.log2(batch)) and 8 <= batch <= 64 and (batch == 8 or batch <= count / 10)
