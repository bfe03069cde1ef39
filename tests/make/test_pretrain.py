"""`make --pretrain`: which methods may come first, what is planned, and that the student starts from it."""

import pytest
from safetensors.torch import load_file

import marrow
import marrow.backbones
from marrow.core.artifact import Artifact
from marrow.core.errors import MarrowError
from marrow.core.fit_check import check_fit
from marrow.core.recipe import Recipe
from marrow.core.static_check import check_static
from marrow.make.plan import plan
from marrow.make.pretrain import methods
from marrow.make.wishes import Wishes

from .pieces import COLOURS, flat, photos

VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures with and without labels, a small ViT and a classifier on one."""
    root = tmp_path_factory.mktemp("pretrain")
    photos(root / "photos", each=30)
    flat(root / "more", 30)
    vit = marrow.backbone("vit_tiny_patch16_224", **VIT)
    marrow.save(root / "vit", vit)
    task = marrow.task("classify", backbone=vit, classes=3)
    task.head.weight.data.mul_(100.0)  # no knowledge, but no doubts either: methods refuse a teacher that knows nothing
    task.labels = sorted(COLOURS)
    marrow.save(root / "teacher", task)
    net = marrow.backbone("resnet10t", channels=(16, 16, 16, 16), stem_width=16, img_size=32)
    marrow.save(root / "net", net)
    return root


def planned(place, method, **wishes):
    found = plan(Wishes(data=str(place / "photos"), img_size=32, pretrain=method, **wishes))
    recipe = Recipe.from_dict(found.recipe)
    assert check_static(recipe) == [] and check_fit(recipe)[0] == []
    return found, {s["name"]: s for s in found.recipe["stages"]}


def test_a_method_comes_first_that_trains_one_backbone_on_one_set_of_images():
    assert methods() == {"feature_distillation": "student", "mae": "encoder", "pixcontrast": "backbone",
                         "pixpro": "backbone", "tinymim": "student"}  # fmt: skip


def test_the_student_starts_from_it_and_the_baseline_does_not(place):
    found, stages = planned(place, "pixpro", unlabelled=str(place / "more"))
    assert list(stages)[:4] == ["teacher", "baseline", "pretrained", "student"]
    assert stages["student"]["student"]["backbone"] == {"stage": "pretrained"}
    assert stages["baseline"]["task"]["backbone"] == stages["pretrained"]["backbone"]
    assert stages["pretrained"]["data"]["train"] == stages["student"]["data"]["train"]
    assert [s["labels"] for s in stages["pretrained"]["data"]["train"]] == [False, False]
    assert stages["pretrained"]["steps"] == stages["student"]["steps"]
    choice = next(c for c in found.choices if c["what"] == "pretrained")
    assert choice["value"] == "pixpro, up to map -3" and "labels are ignored" in choice["reason"]
    assert stages["pretrained"]["probe"]["data"]["test"] == stages["baseline"]["data"]["val"]
    assert "pretrained" not in planned(place, None)[1]


def test_the_map_whose_places_are_compared_has_four_or_more_a_side(place):
    assert planned(place, "pixcontrast")[1]["pretrained"]["args"]["stage"] == -3  # 1, 2 and 4 places from the end
    larger = plan(Wishes(data=str(place / "photos"), img_size=128, pretrain="pixpro"))
    stage = next(s for s in larger.recipe["stages"] if s["name"] == "pretrained")
    assert (stage["args"]["stage"], stage["args"]["hidden"]) == (-1, 2 * 384)


def test_the_jobs_teacher_teaches_where_the_method_asks_for_one(place):
    _, stages = planned(place, "tinymim", teacher=str(place / "teacher"), student=str(place / "vit"))
    assert stages["pretrained"]["teacher"] == {"artifact": str(place / "teacher"), "part": "backbone"}
    _, stages = planned(place, "feature_distillation")
    assert stages["pretrained"]["teacher"] == {"stage": "teacher", "part": "backbone"}
    _, stages = planned(place, "mae", teacher=str(place / "teacher"), student=str(place / "vit"))
    assert "teacher" not in stages["pretrained"] and "stage" not in stages["pretrained"]["args"]


def test_without_labels_the_student_starts_from_it_too(place):
    found = plan(Wishes(data=str(place / "more"), img_size=32, pretrain="pixpro", teacher=str(place / "net")))
    stages = {s["name"]: s for s in found.recipe["stages"]}
    assert list(stages)[:2] == ["pretrained", "student"] and stages["student"]["student"] == {"stage": "pretrained"}
    assert "probe" not in stages["pretrained"]


def test_a_method_that_does_not_fit_the_student_is_refused_and_those_that_do_are_named(place, tmp_path):
    with pytest.raises(MarrowError) as caught:
        marrow.make(str(place / "photos"), img_size=32, pretrain="mae", out=tmp_path / "run", quiet=True)
    said = str(caught.value)
    assert said.startswith("--pretrain: mae needs 'qkv' and 'tokens' from encoder; resnet10t gives")
    assert said.endswith("This student goes with feature_distillation, pixcontrast, pixpro.")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["sepclr", "supervised", "pixpr"])
def test_what_trains_no_backbone_on_one_set_of_images_is_refused(method):
    with pytest.raises(MarrowError, match=f"--pretrain: '{method}' does not train one backbone .* mae, pixcontrast"):
        Wishes(pretrain=method)


def test_a_run_with_it_is_kept_by_a_second_call_and_says_so(place, tmp_path):
    data, out = str(place / "photos"), tmp_path / "run"
    same = {"teacher": str(place / "teacher"), "student": str(place / "net"), "pretrain": "pixpro", "img_size": 32,
            "batch": 16, "epochs": 1, "skip": ("prune", "int8"), "out": out, "quiet": True}  # fmt: skip
    report = marrow.make(data, **same)
    assert "Without the teacher and pre-training (pixpro) the same student reaches" in report["verdict"]
    assert {"pretrained", "student"} <= report["actual"]["minutes"].keys() & report["estimate"]["minutes"].keys()
    assert (
        "probe/knn_top1" in (out / "logs" / "pretrained.csv").read_text()
        and "teach: pixpro" in (out / "recipe.yaml").read_text()
    )
    assert "pre-training" in (out / "report.html").read_text()
    assert Artifact.open(out / "pretrained").hash in Artifact.open(out / "student").meta["parents"]
    first, then = (load_file(folder / "weights.safetensors") for folder in (place / "net", out / "pretrained"))
    assert any((first[k] != then[k]).any() for k in first if "weight" in k)
    written = {f: f.stat().st_mtime_ns for f in out.glob("*/artifact.json")}
    assert {f.parent.name for f in written} == {"baseline", "pretrained", "student", "fp32"}
    marrow.make(data, **same)
    assert {f: f.stat().st_mtime_ns for f in written} == written
