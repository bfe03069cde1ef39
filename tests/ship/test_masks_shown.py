"""What a model that segments says of files: masks in a folder, shares of classes, the page of pictures beside the truth."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

import marrow
from marrow.core.artifact import Artifact
from marrow.core.errors import MarrowError
from marrow.data import open_source
from marrow.data.decode import decode_ids
from marrow.ship import mask_files, mask_page
from marrow.ship.predict import predict

NAMES = ["dark", "bright"]


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Four pictures of two sizes, one file that is none, their masks, and an untrained model."""
    folder = tmp_path_factory.mktemp("scene")
    for i, size in enumerate([(40, 24), (40, 24), (32, 32), (64, 48)]):
        ids = np.zeros(size[::-1], np.uint8)
        ids[:, : 8 * i] = 1
        for part, pixels in (("images", 200 * np.stack([ids] * 3, -1)), ("masks", ids)):
            path = folder / part / ("deep" if i == 3 else ".") / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    torch.manual_seed(0)
    net = marrow.backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    task = marrow.task("segment", backbone=net, classes=2, width=8)
    task.labels = NAMES
    marrow.save(folder / "model", task.eval())
    return folder


def test_masks_are_files_of_ids_at_the_pictures_own_size(scene, tmp_path):
    (scene / "images" / "torn.jpg").write_bytes(b"no picture")
    rows = predict(scene / "model", [scene / "images"], out=tmp_path / "masks")
    (scene / "images" / "torn.jpg").unlink()
    assert [row.get("error") for row in rows].count("not an image") == 1 and len(rows) == 5
    for row in (row for row in rows if "mask" in row):
        mask = decode_ids(open(row["mask"], "rb").read(), "")
        assert tuple(mask.shape) == Image.open(row["file"]).size[::-1]
        assert list(row["shares"]) == sorted(row["shares"], key=row["shares"].get, reverse=True)
        assert sum(row["shares"].values()) == pytest.approx(1, abs=1e-3) and set(row["shares"]) <= set(NAMES)
    # They lie as the pictures do, so that they pair with them as masks.
    again = open_source({"images": str(scene / "images"), "masks": str(tmp_path / "masks")})
    assert len(again) == 4 and int(again[0]["mask"].max()) <= 1


def test_the_answer_in_the_file_is_the_models(scene, tmp_path):
    [row] = predict(scene / "model", [scene / "images" / "2.png"], out=tmp_path)
    task = marrow.load(scene / "model")
    image = open_source({"images": str(scene / "images"), "labels": False})[2]["image"]
    with torch.inference_mode():
        wanted = task.decode(task({"image": image[None]}), {})["mask"][0]
    assert torch.equal(decode_ids((tmp_path / "2.png").read_bytes(), ""), wanted)
    share = float((wanted == 1).double().mean())
    assert row["shares"].get("bright", 0.0) == pytest.approx(share, abs=1e-4)
    assert predict(scene / "model", [scene / "images" / "2.png"]) == [{"file": row["file"], "shares": row["shares"]}]


@pytest.mark.parametrize(
    ("files", "out", "sentence"),
    [
        (["images"], "images", "--out: the mask of a picture would replace the picture .*images/0.png"),
        (["images", "images/2.png"], "new", "--out: two pictures would have their masks in .*new/2.png"),
    ],
)
def test_masks_replace_neither_pictures_nor_each_other(scene, files, out, sentence):
    with pytest.raises(MarrowError, match=sentence):
        predict(scene / "model", [scene / file for file in files], out=scene / out)
    assert not (scene / "new").exists()


def test_colours_of_neighbouring_ids_lie_apart():
    palette = mask_files.colours(20).astype(int)
    distances = np.abs(palette[:, None] - palette[None]).sum(-1) + 1000 * np.eye(20, dtype=int)
    assert distances.min() > 25 and distances[np.arange(19), np.arange(1, 20)].min() > 100


def test_many_classes_are_kept_as_numbers(tmp_path):
    mask = torch.arange(600).view(20, 30)
    mask_files.write(mask, (20, 30), tmp_path / "m.png", 600)
    assert torch.equal(decode_ids((tmp_path / "m.png").read_bytes(), ""), mask)


def test_the_page_shows_picture_truth_and_answer(scene, tmp_path):
    source = open_source({"images": str(scene / "images"), "masks": str(scene / "masks"), "void": 0})
    rows = marrow.evaluate(scene / "model", {"images": str(scene / "images"), "masks": str(scene / "masks"), "void": 0})
    page = mask_page.write(Artifact.open(scene / "model"), source, rows, tmp_path / "page.html").read_text("utf-8")
    shown = re.findall(r'src="data:image/png;base64,([^"]+)" alt="(\w+) of ([^"]+)"', page)
    assert [what for _, what, _ in shown[:3]] == ["picture", "truth", "answer"] and len(shown) == 3 * 4
    for content, what, name in shown:
        pixels = np.array(Image.open(io.BytesIO(base64.b64decode(content))))
        if what == "truth":  # void is grey, the rest has the colour of class 1
            bright = mask_files.colours(2)[1].tolist()
            seen = {tuple(c) for c in pixels.reshape(-1, 3).tolist()}
            assert seen <= {mask_page.UNKNOWN, tuple(bright)}, name
    assert "dark" in page and "bright" in page and "Mean IoU" in page
    with pytest.raises(MarrowError, match="--page: a page of masks needs a model that segments and images with masks"):
        mask_page.write(Artifact.open(scene / "model"), open_source({"images": "digits"}), rows, tmp_path / "no.html")
