"""What is decided before a run: a recipe for each row of the table of cases, choices with reasons, and refusals."""

import dataclasses
import json
import math

import pytest
from PIL import Image

import marrow
import marrow.backbones
from marrow.core.errors import MarrowError
from marrow.core.fit_check import check_fit
from marrow.core.recipe import Recipe
from marrow.core.static_check import check_static
from marrow.make.lengths import usual_batch
from marrow.make.plan import plan
from marrow.make.wishes import Wishes

from .pieces import COLOURS, flat, photos

TINY = {"channels": [16, 16, 16, 16], "stem_width": 16, "img_size": 32}
FILES = ["fp32", "int8", "student_fp32", "student_int8"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures with and without labels, a classifier, one of other classes, and a backbone."""
    root = tmp_path_factory.mktemp("plan")
    photos(root / "photos", each=30)
    flat(root / "flat")
    for name, labels in (("classifier", sorted(COLOURS)), ("others", ["ape", "ox", "yak"])):
        task = marrow.task("classify", backbone=marrow.backbone("resnet10t", **TINY), classes=3)
        task.labels = labels
        marrow.save(root / name, task)
    marrow.save(root / "backbone", marrow.backbone("resnet10t", **TINY))
    return root


def planned(place, data, **wishes):
    """The plan; its recipe passes both checks."""
    found = plan(Wishes(data=str(place / data), img_size=32, **wishes))
    recipe = Recipe.from_dict(found.recipe)
    assert check_static(recipe) == [] and check_fit(recipe)[0] == []
    return found, {s["name"]: s for s in found.recipe["stages"]}


def test_labels_and_no_teacher(place):
    found, stages = planned(place, "photos")
    assert list(stages) == ["teacher", "baseline", "student", "cut", "pruned", *FILES]
    assert found.metric == "top1" and found.teacher is None and not found.missing
    assert stages["student"]["data"]["train"][0]["labels"] is False


def test_labels_and_a_backbone(place):
    found, stages = planned(place, "photos", teacher=str(place / "backbone"))
    assert list(stages)[:3] == ["probe", "teacher", "baseline"]
    assert stages["probe"]["args"]["head_only"] is True and stages["teacher"]["task"] == {"stage": "probe"}
    assert stages["student"]["teacher"] == {"stage": "teacher"}
    _, stages = planned(place, "photos", teacher=str(place / "backbone"), skip=("finetune",))
    assert list(stages)[:2] == ["teacher", "baseline"] and stages["teacher"]["args"]["head_only"] is True


def test_labels_and_a_model_with_a_head(place):
    found, stages = planned(place, "photos", teacher=str(place / "classifier"))
    assert list(stages) == ["baseline", "student", "cut", "pruned", *FILES]
    assert stages["student"]["teacher"] == found.teacher == {"artifact": str(place / "classifier")}


def test_a_teacher_of_other_classes_needs_a_class_map(place, tmp_path):
    with pytest.raises(MarrowError, match="--teacher: its classes .ape, ox, yak. are not the data's .*--class-map"):
        planned(place, "photos", teacher=str(place / "others"))
    (tmp_path / "map.yaml").write_text("ape: ant\nox: bee\nyak: cat & <b>dog\n")
    found, stages = planned(place, "photos", teacher=str(place / "others"), class_map=str(tmp_path / "map.yaml"))
    assert found.case.class_map == (0, 1, 2) and stages["student"]["args"]["class_map"] == [0, 1, 2]
    assert stages["pruned"]["args"]["class_map"] == [0, 1, 2]
    with pytest.raises(MarrowError, match="--class-map: .* needs labels and a teacher with a head"):
        planned(place, "photos", class_map=str(tmp_path / "map.yaml"))


def test_no_labels_and_a_model_with_a_head(place):
    found, stages = planned(place, "flat", teacher=str(place / "classifier"))
    assert list(stages) == ["student", "cut", "pruned", *FILES] and found.metric == "agreement"
    assert found.case.classes == sorted(COLOURS) and stages["student"]["student"]["classes"] == 3
    assert "nothing but the teacher" in found.missing["baseline"] and "val" not in stages["student"]["data"]


def test_the_size_is_the_teachers_where_the_pictures_are_larger(place, tmp_path):
    photos(tmp_path / "large", each=30, size=96)
    wishes = Wishes(data=str(tmp_path / "large"))
    assert plan(wishes).data["size"] == 96
    assert plan(dataclasses.replace(wishes, teacher=str(place / "backbone"))).data["size"] == 32


def test_a_head_whose_classes_nobody_named_goes_by_their_numbers(place):
    task = marrow.task("classify", backbone=marrow.backbone("resnet10t", **TINY), classes=3)
    marrow.save(place / "unnamed", task)
    found, stages = planned(place, "flat", teacher=str(place / "unnamed"))
    assert found.case.classes == ["0", "1", "2"] and stages["student"]["student"]["classes"] == 3


def test_no_labels_and_a_backbone(place):
    found, stages = planned(place, "flat", teacher=str(place / "backbone"))
    assert stages["student"]["teach"] == stages["pruned"]["teach"] == "feature_distillation"
    assert stages["int8"]["model"] == {"task": "embed", "backbone": {"stage": "pruned"}}
    assert found.metric == "knn_agreement" and found.case.classes is None


def test_no_labels_and_no_teacher(place):
    with pytest.raises(MarrowError, match="no labels and no teacher: give --teacher or class sub-folders"):
        planned(place, "flat")


def test_the_plan_for_the_digits_hides_the_test_split():
    chosen = plan(Wishes())
    text = json.dumps(chosen.recipe)
    assert '"split": "test"' not in text and chosen.test["split"] == "test"
    assert chosen.data["labels of the baseline"] == 50 and chosen.name.startswith("digits-")
    assert chosen.name != plan(Wishes(seed=1)).name and chosen.name == plan(Wishes()).name


def test_stages_that_are_left_out_are_told(place):
    found, stages = planned(place, "photos", skip=("prune", "baseline", "int8"))
    assert list(stages) == ["teacher", "student", "fp32"] and stages["fp32"]["model"] == {"stage": "student"}
    assert set(found.missing) == {"baseline", "pruned", "int8"}
    with pytest.raises(
        MarrowError, match="--skip: 'teacher' cannot be left out; known: baseline, finetune, int8, prune"
    ):
        plan(Wishes(skip=("teacher",)))


def test_wishes_that_do_not_fit_are_told_at_once():
    with pytest.raises(MarrowError) as caught:
        Wishes(target="phone", epochs=-1, batch=1, img_size=3)
    said = str(caught.value)
    assert "4 problems" in said and "--target: 'phone' is no target yet; known: cpu" in said and "--epochs: -1" in said
    assert "--batch: 1 is too small; at least 2" in said and "--img-size: 3 is too small" in said


def test_few_images_of_a_class_make_all_classes_count_alike(place, tmp_path):
    data = photos(tmp_path / "photos", each=40)
    for i in range(5, 40):
        (data / "bee" / f"{i}.png").unlink()
    found, stages = planned(tmp_path, "photos")
    assert found.metric == stages["student"]["select"] == stages["baseline"]["select"] == "balanced_top1"
    reason = next(c["reason"] for c in found.choices if c["what"] == "metric")
    assert "'bee' has" not in reason.split(",")[0] and "'bee'" in reason


def test_unlabelled_images_join_the_student_but_not_copies_of_what_is_measured(place, tmp_path):
    more = flat(tmp_path / "more", 30)
    for i in range(30):
        Image.open(place / "photos" / "ant" / f"{i}.png").save(more / f"copy{i}.png")
    found, stages = planned(place, "photos", unlabelled=str(more))
    assert len(stages["student"]["data"]["train"]) == 2 and len(stages["baseline"]["data"]["train"]) == 1
    assert 30 < found.data["unlabelled"] < 60


def test_an_off_the_shelf_model_is_fine_tuned_on_the_same_labels(place):
    found, stages = planned(place, "photos", compare=str(place / "backbone"))
    assert list(stages)[-3:] == ["compare", "compare_fp32", "compare_int8"]
    assert (
        stages["compare"]["data"] == stages["baseline"]["data"]
        and stages["compare"]["steps"] == stages["baseline"]["steps"]
    )
    with pytest.raises(MarrowError, match="--compare: the other model is fine-tuned on labels, and there are none"):
        planned(place, "flat", teacher=str(place / "backbone"), compare=str(place / "backbone"))


def test_a_group_is_in_every_cut(place):
    _, stages = planned(place, "photos", group_by=r"(\d+)\.png")
    given = stages["baseline"]["data"]
    assert {s["group"] for s in [*given["train"], *given["val"]]} == {r"(\d+)\.png"}


@pytest.mark.parametrize("count", [12, 100, 640, 5000])
def test_a_batch_is_a_power_of_two_below_a_tenth_of_the_images(count):
    batch = usual_batch(count)
    assert batch == 2 ** round(math.log2(batch)) and 8 <= batch <= 64 and (batch == 8 or batch <= count / 10)
