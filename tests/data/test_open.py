import subprocess
import sys

import pytest

from marrow.core.errors import MarrowError
from marrow.data import open_source, splits_of


@pytest.fixture
def splitted(tmp_path, picture):
    """train/ and valid/ with class folders; valid lacks the owl."""
    root = tmp_path / "birds"
    for split, classes in (("train", ("cat", "dog", "owl")), ("valid", ("cat", "dog"))):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(3):
                picture(100 * (split == "valid") + 10 * c + i).save(root / split / name / f"{i}.png")
    return root


def test_split_folders_count_the_same_classes(splitted):
    assert splits_of(str(splitted)) == ("train", "val")
    train, val = (open_source({"images": str(splitted), "split": s}) for s in ("train", "val"))
    assert (len(train), len(val)) == (9, 6) and train.classes == val.classes == ["cat", "dog", "owl"]
    assert val.name(0) == "cat/0.png" and len(open_source({"images": str(splitted)})) == 15


def test_a_split_that_is_not_there(splitted):
    with pytest.raises(
        MarrowError, match=r"^data.split: .* has no split 'test'; it has train, val.* Cut one from train"
    ):
        open_source({"images": str(splitted), "split": "test"})


def test_without_splits_the_hash_cuts(photos):
    parts = []
    for split in ("train", "val", "test"):
        try:
            parts.append(len(open_source({"images": str(photos), "split": split})))
        except MarrowError as error:  # twelve pictures may leave a small split empty
            assert f"is left by split: {split}" in str(error)
    assert sum(parts) == 12 and splits_of(str(photos)) == ()


def test_a_class_may_be_called_train(photos):
    (photos / "owl").rename(photos / "train")
    assert open_source({"images": str(photos)}).classes == ["cat", "dog", "train"]


def test_split_or_class(splitted, picture):
    (splitted / "valid").rename(splitted / "unlabelled")
    with pytest.raises(MarrowError, match=r"^data.images: is 'train' in .* a split or a class\?"):
        open_source({"images": str(splitted)})


def test_a_bare_name_is_looked_up_in_marrow_data(photos, monkeypatch):
    monkeypatch.setenv("MARROW_DATA", str(photos.parent))
    assert len(open_source({"images": "photos"})) == 12
    with pytest.raises(MarrowError, match=r"^data.images: no file or folder '.*photo'; did you mean 'photos'"):
        open_source({"images": str(photos.parent / "photo")})


def test_one_broken_mapping_tells_every_problem(photos):
    with pytest.raises(MarrowError) as caught:
        open_source({"image": str(photos), "split": "dev", "hash": [0.5, 0.2]}, "stages[0].data.train[1]")
    message = str(caught.value)
    assert "stages[0].data.train[1].image: unknown key 'image'; did you mean 'images'?" in message
    assert "stages[0].data.train[1].split" in message and "stages[0].data.train[1].hash" in message
    assert "'images' is missing" in message


@pytest.mark.parametrize("key, value", [
    ("labels", "no"), ("per_class", 0), ("per_class", 2.5), ("fraction", 0), ("fraction", 1.5), ("salt", [1]),
    ("indices", [1, "a"]), ("only", "cat"), ("hash", [0.1]), ("split", "dev"), ("images", 7),
])  # fmt: skip
def test_values_of_the_wrong_kind(photos, key, value):
    with pytest.raises(MarrowError, match=rf"^data\.{key}: "):
        open_source({"images": str(photos), key: value})


def test_splits_of_a_path_that_is_not_there(tmp_path):
    with pytest.raises(MarrowError, match="^--data.images: no file or folder"):
        splits_of(str(tmp_path / "birds"), "--data")


def test_root_goes_with_torchvision(photos):
    with pytest.raises(MarrowError, match="^data.root: 'root' goes with torchvision:NAME only"):
        open_source({"images": str(photos), "root": str(photos)})


def test_neither_folder_nor_known_file(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(MarrowError, match="^data.images: a.zip is neither a folder nor a .parquet or .tar file"):
        open_source({"images": str(tmp_path / "a.zip")})


def test_another_process_sees_the_same_hashes(photos):
    code = ("import sys; from marrow.data.folder import ImageFolder; from pathlib import Path; "
            "print(ImageFolder(Path(sys.argv[1]), 'data').fingerprint())")  # fmt: skip
    told = subprocess.run([sys.executable, "-c", code, str(photos)], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == open_source({"images": str(photos)}).fingerprint()


def test_images_without_labels_lie_as_they_like(photos, picture):
    picture(40).save(photos / "stray.png")
    (photos / "owl" / "deeper").mkdir()
    picture(41).save(photos / "owl" / "deeper" / "0.png")
    source = open_source({"images": str(photos), "labels": False})
    assert len(source) == 14 and source.classes is None and source.label(3) is None and "label" not in source[3]
    assert source.name(13) == "stray.png" and open_source({"images": str(photos / "cat")}).classes is None
