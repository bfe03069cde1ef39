"""Predictions for files: right order, honest errors, the same answer from a task and from its exported file."""

import pytest
import torch
from PIL import Image

from marrow.core import artifact
from marrow.core.engine import Engine
from marrow.core.errors import MarrowError
from marrow.core.loader import Data
from marrow.core.preprocess import plain
from marrow.core.spec import build
from marrow.core.table import Table
from marrow.data.folder import ImageFolder
from marrow.ship.onnx import Onnx
from marrow.ship.predict import predict
from marrow.tasks.classify import Classify

NET = {"source": "timm:resnet10t", "args": {"channels": [8, 16, 24, 32], "stem_width": 8, "img_size": 32}}
NAMES = ["red", "green", "blue", "grey", "black", "white", "none"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Seven pictures of different sizes and modes, one below another folder."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "deeper").mkdir()
    draw = torch.Generator().manual_seed(0)
    for i, (mode, size) in enumerate([("RGB", (40, 30)), ("L", (32, 32)), ("RGBA", (64, 20)), ("RGB", (9, 9)),
                                      ("RGB", (33, 70)), ("P", (32, 32)), ("RGB", (50, 50))]):  # fmt: skip
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=draw, dtype=torch.uint8).numpy()
        name = f"deeper/{i}.png" if i == 3 else f"{i}.png"
        Image.fromarray(noise).convert(mode).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory, images):
    """A task with random weights, and the file exported from it."""
    folder = tmp_path_factory.mktemp("artifacts")
    torch.manual_seed(0)
    task = build({"task": "classify", "backbone": NET, "classes": len(NAMES)}).eval()
    torch.nn.init.normal_(task.head.weight)
    task.labels, facts = NAMES, {}
    data = Data({"parity": ImageFolder(images, "images", labelled=False)})

    def fill(path):
        facts.update(Onnx().export({"model": task}, data, Engine(device="cpu"), path))

    return {"task": artifact.save(folder / "task", task),
            "runtime": artifact.save(folder / "runtime", facts, labels=NAMES, fill=fill)}  # fmt: skip


@pytest.mark.parametrize("kind", ["task", "runtime"])
def test_rows_are_what_the_model_says(saved, images, kind):
    task, source = saved["task"].load(), ImageFolder(images, "images", labelled=False)
    rows = predict(saved[kind], [images], batch=3)
    assert [row["file"] for row in rows] == [str(images / source.name(i)) for i in range(7)]
    for i, row in enumerate(rows):
        image = plain(task.input)(source[i])["image"]
        with torch.no_grad():
            probability = task({"image": image[None]})["logits"].softmax(-1)[0]
        assert row["label"] == NAMES[int(probability.argmax())]
        assert row["probability"] == pytest.approx(float(probability.max()), abs=1e-4)
        assert [t["label"] for t in row["top"]] == [NAMES[j] for j in probability.topk(5).indices]
        assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}


def test_what_cannot_be_read_gets_a_row_and_stops_nothing(saved, images, tmp_path):
    broken, text = tmp_path / "broken.png", tmp_path / "notes.png"
    broken.write_bytes((images / "0.png").read_bytes()[:200])
    text.write_text("no image")
    files = [images / "0.png", broken, tmp_path / "missing.png", text, images / "1.png"]
    rows = predict(saved["task"].path, files, batch=2)
    assert [row["file"] for row in rows] == [str(f) for f in files]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert "No such file" in rows[2]["error"] and rows[3]["error"] == "not an image"
    alone = predict(saved["task"], [files[4]])[0]
    assert rows[4]["label"] == alone["label"]
    assert rows[4]["probability"] == pytest.approx(alone["probability"], abs=1e-5)


def test_threads_are_given_back(saved, images):
    before = torch.get_num_threads()
    assert len(predict(saved["runtime"], [images], threads=2)) == 7
    assert torch.get_num_threads() == before
    with pytest.raises(MarrowError, match="threads: 0 is not a number of threads"):
        predict(saved["runtime"], [images], threads=0)


def test_without_names_classes_are_numbers(images, tmp_path):
    torch.manual_seed(0)
    unnamed = artifact.save(tmp_path / "a", build({"task": "classify", "backbone": NET, "classes": 3}))
    (row,) = predict(unnamed, [images / "0.png"])
    assert {t["label"] for t in row["top"]} == {"0", "1", "2"}


@pytest.mark.parametrize("kind", ["task", "runtime"])
def test_of_nested_sizes_the_largest_answers(images, tmp_path, kind):
    torch.manual_seed(0)
    nested = build({"task": "nested_classify", "backbone": NET, "classes": 7, "sizes": [8, 32]}).eval()
    for parameter in nested.head.parameters():
        torch.nn.init.normal_(parameter)
    plain = Classify(nested.backbone, classes=7).eval()
    plain.head = nested.head.at(32)
    nested.labels = plain.labels = NAMES
    wanted, facts = predict(artifact.save(tmp_path / "plain", plain), [images]), {}

    def fill(folder):
        data = Data({"parity": ImageFolder(images, "images", labelled=False)})
        facts.update(Onnx().export({"model": nested}, data, Engine(device="cpu"), folder))

    made = nested if kind == "task" else facts
    saved = artifact.save(tmp_path / "nested", made, labels=NAMES, fill=fill if kind == "runtime" else None)
    for row, other in zip(predict(saved, [images]), wanted, strict=True):
        assert (row["file"], row["label"]) == (other["file"], other["label"])
        assert row["probability"] == pytest.approx(other["probability"], abs=1e-4)


def test_what_names_no_classes_is_refused(images, tmp_path):
    backbone = artifact.save(tmp_path / "net", build(NET))
    with pytest.raises(MarrowError, match="a backbone artifact does not name classes"):
        predict(backbone, [images])
    with pytest.raises(MarrowError, match="a data artifact"):
        predict(artifact.save(tmp_path / "table", Table({"index": torch.arange(3)})), [images])
    with pytest.raises(MarrowError, match="predict names classes; this model does 'embed'"):
        predict(artifact.save(tmp_path / "embed", build({"task": "embed", "backbone": NET})), [images])
    with pytest.raises(MarrowError, match="no artifact here"):
        predict(tmp_path, [images])


def test_an_empty_folder_is_named(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(MarrowError, match="no images in .*empty"):
        predict(saved["task"], [tmp_path / "empty"])
