"""Measures of objects at prediction: those that a source gives, from masks or Otsu's threshold; what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import marrow
from marrow.cli import main
from marrow.core.artifact import save
from marrow.core.errors import MarrowError
from marrow.core.preprocess import plain
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.ship.predict import predict
from marrow.tasks.hybrid_classify import HybridClassify

pytest.importorskip("skimage", reason="the extra histology is not installed")
NAMES = ["large", "small"]
BY = {"masks": 2, "otsu": "otsu"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Cells of two sizes in folders of their classes, a mask for each, and a task that goes by their measures."""
    root, draw = tmp_path_factory.mktemp("cells"), torch.Generator().manual_seed(0)
    y, x = np.mgrid[:40, :44]
    for name, radius in (("small", 5), ("large", 12)):
        for folder in ("images", "masks"):
            (root / folder / name).mkdir(parents=True)
        for i in range(4):
            inside = (y - 20) ** 2 + (x - 20 - i) ** 2 <= radius**2
            noise = torch.randint(0, 20, (40, 44, 3), generator=draw).numpy()
            picture = np.where(inside[..., None], [90, 40, 130], [225, 200, 220]) + noise
            kind = {"quality": 95} if i else {}  # a JPEG is decoded late
            Image.fromarray(picture.astype(np.uint8)).save(
                root / "images" / name / f"{i}.{'jpg' if i else 'png'}", **kind
            )
            Image.fromarray((2 * inside).astype(np.uint8)).save(root / "masks" / name / f"{i}.png")
    torch.manual_seed(0)
    net = TimmBackbone.create("cnn_3l", img_size=16, widths=(4, 4, 4), hidden=8)
    task = HybridClassify(net, classes=2, hidden=8)
    task({"image": torch.rand(4, 3, 16, 16), "objects": torch.randn(4, 52)})  # scales, as a training gathers them
    torch.nn.init.normal_(task.head[2].weight)
    task.labels = NAMES
    save(root / "task", task.eval())
    return root


@pytest.mark.parametrize("by", BY)
def test_what_a_source_gives_is_what_the_model_reads(place, by):
    masks = {"masks": place / "masks"} if by == "masks" else {}
    rows = predict(place / "task", [place / "images"], objects=BY[by], **masks)
    source = open_source({"images": str(place / "images"), "masks": str(place / "masks"), "objects": BY[by]})
    task = marrow.load(place / "task")
    assert len(rows) == len(source) == 8
    for i, row in enumerate(rows):
        example = plain(task.input)(source[i])
        with torch.no_grad():
            said = task({k: example[k][None] for k in ("image", "objects")})["logits"].softmax(1)[0]
        assert {r["label"]: r["probability"] for r in row["top"]} == pytest.approx(dict(zip(NAMES, said.tolist())))


def test_one_file_says_what_it_says_in_its_folder(place):
    file = place / "images" / "small" / "1.jpg"
    alone = predict(place / "task", [file], objects="2", masks=place / "masks" / "small")
    [among] = [row for row in predict(place / "task", [place / "images"], objects=2, masks=place / "masks")
               if row["file"] == str(file)]  # fmt: skip
    assert alone[0]["probability"] == pytest.approx(among["probability"])


def test_a_picture_that_cannot_be_measured_is_an_error_of_its_row(place, tmp_path):
    Image.new("RGB", (40, 44), (200, 100, 90)).save(tmp_path / "0.png")
    Image.new("RGB", (40, 44), (200, 100, 90)).save(tmp_path / "unknown.png")
    Image.linear_gradient("L").save(tmp_path / "grey.png")
    files = [tmp_path / "0.png", tmp_path / "unknown.png"]
    rows = predict(place / "task", files, objects=2, masks=place / "masks" / "small")
    assert rows[0]["error"] == "the mask has 44 x 40 pixels, its image 40 x 44"
    assert rows[1]["error"] == "no mask has its name"
    rows = predict(place / "task", [tmp_path / "grey.png", place / "images" / "small" / "0.png"], objects="otsu")
    assert "grey" in rows[0]["error"] and rows[1]["label"] in NAMES


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "--objects: this model reads measures of the object in each picture, and it is not said which object"),
        ({"objects": "otzu"}, "--objects: 'otzu' is neither otsu nor a class id"),
        ({"objects": 2}, "--masks: class 2 marks the object in masks, and there are none"),
        ({"objects": 2, "masks": "nowhere"}, "there is no folder nowhere"),
        ({"objects": "otsu", "masks": "masks"}, "--masks: otsu finds the object without masks"),
    ],
)
def test_what_was_not_said_is_asked_for(place, asked, sentence):
    with pytest.raises(MarrowError, match=sentence):
        predict(place / "task", [place / "images"], **asked)


def test_a_model_of_pictures_alone_takes_no_measures(place, tmp_path):
    net = TimmBackbone.create("cnn_3l", img_size=16, widths=(4, 4, 4), hidden=8)
    save(tmp_path / "deep", HybridClassify(net, classes=2, mode="deep").eval())
    with pytest.raises(MarrowError, match="--objects: this model reads nothing but the pictures"):
        predict(tmp_path / "deep", [place / "images"], objects="otsu")


def printed(capsys, *words) -> list[dict]:
    with pytest.raises(SystemExit) as ended:
        main([*map(str, words), "--json"])
    assert not ended.value.code
    return json.loads(capsys.readouterr().out)


def test_the_commands_measure(place, capsys):
    images, masks = place / "images", place / "masks"
    rows = printed(capsys, "predict", place / "task", images, "--objects", "2", "--masks", masks)
    right = sum(row["label"] in row["file"] for row in rows)
    measured = printed(capsys, "evaluate", place / "task", "--data", images, "--masks", masks, "--objects", "2")
    assert measured[0]["value"] == right / 8
