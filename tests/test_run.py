"""`run`: stages become artifacts, what did not change is not made again, and nothing is overwritten unasked."""

import pytest
import yaml

import marrow
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.data import open_source
from marrow.examine.adaptive_classification import AdaptiveClassification
from marrow.run import evaluate, examine, run
from marrow.run_folder import data_folders

NARROW = {"backbone": "resnet10t", "img_size": 32, "channels": [8, 8, 16, 16], "stem_width": 8}
VAL = {"images": "digits", "split": "val", "per_class": 3}


def recipe(**changes):
    stage = {"teach": "supervised", "name": "net", "task": {"task": "classify", "backbone": NARROW, "classes": 10},
             "data": {"train": [{"images": "digits", "split": "train", "per_class": 20}], "val": [VAL], "batch": 32},
             "optim": {"adamw": {"lr": 0.01}}, "steps": 80}  # fmt: skip
    half = {"teach": "ssld", "name": "student", "student": {"task": "classify", "backbone": NARROW, "classes": 10},
            "teacher": {"stage": "net"}, "args": {"crop": None, "flip": False}, "steps": 3, "optim": {"sgd": {"lr": 0.05}},
            "data": {"train": [{"images": "digits", "split": "train", "labels": False}], "batch": 8}}  # fmt: skip
    return {"seed": 0, "stages": [stage | changes, half]}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    made = []
    run(recipe(teach="supervised"), out, quiet=True, after=lambda stage, artifact, history: made.append(artifact))
    return out, made


def test_a_run_leaves_its_recipe_logs_and_artifacts_with_lineage(done):
    out, (net, student) = done
    assert yaml.safe_load((out / "recipe.yaml").read_text()) == recipe(teach="supervised")
    assert student.meta["parents"] == [net.hash] and student.meta["labels"] == [str(i) for i in range(10)]
    assert net.meta["metrics"][0]["metric"] == "top1" and net.meta["metrics"][0]["split"] == "val"
    assert (out / "logs" / "net.csv").read_text().startswith("step,name,value\n")
    assert sorted(p.name for p in out.iterdir()) == ["logs", "net", "recipe.yaml", "student"]


def test_a_second_run_makes_nothing(done):
    out, made = done
    histories = []
    again = run(recipe(teach="supervised"), out, quiet=True, after=lambda s, a, history: histories.append(history))
    assert histories == [None, None] and [a.hash for a in again] == [a.hash for a in made]


def test_what_the_teacher_said_is_kept_in_the_run_folder_or_in_marrow_cache(done, tmp_path, monkeypatch):
    out, _ = done
    _, student = recipe()["stages"]
    student |= {"teacher": {"artifact": str(out / "net")}, "cached_views": 2}
    student["data"]["train"][0]["fraction"] = 0.02
    asked = []

    def once(name, stage=student):
        run({"seed": 0, "stages": [stage]}, tmp_path / name, quiet=True,
            after=lambda s, a, history: asked.append(history["teacher_cache"]["asked"]))  # fmt: skip

    once("a")
    assert list((tmp_path / "a" / "cache").glob("*/train-0-*.rows")) and asked.pop() > 0
    monkeypatch.setenv("MARROW_CACHE", str(tmp_path / "shared"))
    once("b")
    once("c", student | {"args": {**student["args"], "temperature": 2.0}})
    assert asked[0] > 0 and asked[1] == 0
    assert not (tmp_path / "b" / "cache").exists() and list((tmp_path / "shared").glob("*/about.json"))


def test_another_recipe_in_the_same_folder_lists_the_differences(done):
    out, _ = done
    with pytest.raises(MarrowError, match=r"holds another run\n  stages\[0\].steps: 80 there, 4 now.*--allow-changed"):
        run(recipe(steps=4), out, quiet=True)


def test_only_what_depends_on_a_change_is_made_again(tmp_path):
    first = run(recipe(), tmp_path / "b", quiet=True)
    histories = []
    changed = recipe()
    changed["stages"][1]["steps"] = 4
    second = run(
        changed, tmp_path / "b", quiet=True, allow_changed=True, after=lambda s, a, h: histories.append(h is None)
    )
    assert histories == [True, False] and second[0].hash == first[0].hash and second[1].hash != first[1].hash


def test_the_lock_of_a_dead_process_is_taken(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / ".lock").write_text("999999999")
    assert len(run(recipe(), tmp_path / "d", quiet=True)) == 2


def test_an_unfinished_run_needs_resume(tmp_path):
    waiting = tmp_path / "e" / "checkpoints" / "net.pt"
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(b"")
    with pytest.raises(MarrowError, match=r"unfinished run \(stage net\)\. Add --resume"):
        run(recipe(), tmp_path / "e", quiet=True)


def test_the_data_folders_are_those_that_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "photos", "known"):
        (tmp_path / name).mkdir()
    probe = {"examine": "knn", "every_percent": 50, "data": {"train": [{"images": "known"}], "test": [VAL]}}
    stage = {"data": {"train": [{"images": "digits"}, {"images": "photos"}], "batch": 4}, "probe": probe}
    assert [str(p) for p in data_folders({"stages": [stage]})] == ["photos", "known"]  # the digits come with marrow


def test_nothing_is_written_into_the_data(tmp_path):
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(9):
            Image.new("RGB", (32, 32), (i * 20, 99, 9)).save(tmp_path / "photos" / name / f"{i}.png")
    wrong = recipe()
    wrong["stages"][0]["data"] = {"train": [{"images": str(tmp_path / "photos")}], "batch": 4}
    with pytest.raises(MarrowError, match="lies inside the data"):
        run(wrong, tmp_path / "photos" / "out", quiet=True)
    assert sorted(p.name for p in (tmp_path / "photos").iterdir()) == ["a", "b"]


def test_a_task_with_other_classes_than_the_data_is_refused_before_training(tmp_path):
    wrong = recipe(task={"task": "classify", "backbone": NARROW, "classes": 7})
    wrong["stages"] = wrong["stages"][:1]
    with pytest.raises(MarrowError, match=r"stages\[0\].data.train: task has 7 classes, the data has 10"):
        run(wrong, tmp_path / "f", quiet=True)


def test_evaluate_needs_labels_of_the_same_classes(done):
    _, (net, _) = done
    rows = evaluate(net, VAL, device="cpu")
    assert rows[0]["metric"] == "top1" and rows[0]["n"] == 30
    with pytest.raises(MarrowError, match="no labels"):
        evaluate(net, {**VAL, "labels": False})
    with pytest.raises(MarrowError, match="are not the model's"):
        evaluate(net, {**VAL, "only": ["1", "2"]})


def test_a_probe_that_compares_splits_takes_them_itself(done, tmp_path):
    backbone = tmp_path / "backbone"
    marrow.save(backbone, done[1][0].load().backbone)
    report = examine("knn", backbone, {"images": "digits"})
    splits = {split: len(open_source({"images": "digits", "split": split})) for split in ("train", "test")}
    assert (report.rows[0]["train"], report.rows[0]["n"]) == (splits["train"], splits["test"])
    with pytest.raises(MarrowError, match="knn compares the splits train and test"):
        examine("knn", backbone, {"images": "digits", "split": "test"})
    with pytest.raises(MarrowError, match="knn_agreement compares 2 models .student, teacher."):
        examine("knn_agreement", backbone, {"images": "digits"})


def test_a_probe_whose_streams_are_no_splits_says_which_it_takes(tmp_path):
    net = marrow.backbone(NARROW["backbone"], **{k: v for k, v in NARROW.items() if k != "backbone"})
    task = marrow.task("nested_classify", backbone=net, classes=10, sizes=(4, 16)).eval()
    made = tmp_path / "nested"
    marrow.save(made, task)
    streams = {"thresholds": {"images": "digits", "split": "val"}, "test": {"images": "digits", "split": "test"}}
    wanted = AdaptiveClassification().run(
        {"model": task}, Data({k: open_source(v) for k, v in streams.items()}), Engine()
    )
    assert examine("adaptive_classification", made, {"images": "digits"}).rows == wanted.rows
    with pytest.raises(MarrowError, match="adaptive_classification compares the splits val and test"):
        examine("adaptive_classification", made, {"images": "digits", "split": "test"})
