import shutil

import pytest

from marrow.core.errors import MarrowError
from marrow.data import check_labelled, open_source
from marrow.data.folder import ImageFolder


def test_two_classes_with_two_images_are_enough(photos):
    check_labelled(open_source({"images": str(photos)}), "data")


def test_no_labels(photos):
    with pytest.raises(MarrowError, match="^data: the images have no labels.* Put each class into a sub-folder"):
        check_labelled(open_source({"images": str(photos), "labels": False}), "data")


def test_one_class(photos):
    with pytest.raises(MarrowError, match="^data: there is only one class, 'cat'; two or more are needed"):
        check_labelled(open_source({"images": str(photos), "only": ["cat"]}), "data")


def test_a_class_with_one_image_and_one_with_none(photos):
    for i in (1, 2, 3):
        (photos / "owl" / f"{i}.png").unlink()
    shutil.rmtree(photos / "dog")
    with pytest.raises(MarrowError, match=r"too few in 'dog' \(0\), 'owl' \(1\)"):
        check_labelled(ImageFolder(photos, "data", classes=["cat", "dog", "owl"]), "data")
