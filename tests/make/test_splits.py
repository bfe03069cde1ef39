"""Which images are trained on, chosen by, and measured with."""

import pytest
from PIL import Image

from marrow.core.errors import MarrowError
from marrow.data import open_source
from marrow.make.splits import parts


def flat(folder, count=60, first=0):
    folder.mkdir(parents=True)
    for i in range(first, first + count):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(folder / f"scene{i // 6}-{i}.png")
    return str(folder)


def names(given):
    source = open_source(given)
    return {source.name(i) for i in range(len(source))}


def apart(found):
    train, val, test = map(names, found)
    assert not train & val and not train & test and not val & test and val and test
    return train, val, test


def test_images_without_labels_hold_out_a_tenth_twice(tmp_path):
    found = parts(flat(tmp_path / "all", 200), labelled=False)
    train, val, test = apart(found)
    assert len(train | val | test) == 200 and 10 <= len(val) <= 30 and 10 <= len(test) <= 30
    assert all(part["labels"] is False for part in found)


def test_a_test_folder_leaves_more_to_train_on(tmp_path):
    data, other = flat(tmp_path / "all", 60), flat(tmp_path / "other", 5)
    found = parts(data, test=other, labelled=False)
    assert found.test == {"images": other, "labels": False}
    assert len(names(found.train) | names(found.val)) == 60


def test_splits_that_the_data_brings_are_used_and_others_cut_from_train(tmp_path):
    flat(tmp_path / "set" / "train", 60)
    flat(tmp_path / "set" / "test", 8, first=100)
    found = parts(str(tmp_path / "set"), labelled=False)
    train, val, test = apart(found)
    assert len(train | val) == 60 and len(test) == 8


def test_a_set_without_train_is_refused(tmp_path):
    flat(tmp_path / "set" / "val", 6)
    flat(tmp_path / "set" / "test", 6)
    with pytest.raises(MarrowError, match="has val, test but no train"):
        parts(str(tmp_path / "set"))


def test_a_group_stays_on_one_side(tmp_path):
    found = parts(flat(tmp_path / "all", 240), labelled=False, group=r"scene\d+")
    scenes = [{name.split("-")[0] for name in part} for part in apart(found)]
    assert not scenes[0] & scenes[1] and not scenes[0] & scenes[2] and not scenes[1] & scenes[2]
