"""Where the models err: classes, confusions, pictures."""

import pytest

from marrow.core.errors import MarrowError

from .sample import Page, cells, png, recalls, sample, unlabelled, written


def test_pictures_without_labels_say_what_both_say(tmp_path):
    pictures = [{"png": png(), "label": None, "teacher": "cat", "student": "dog"}]
    page = Page(written(tmp_path, unlabelled("agreement"), thumbnails=pictures))
    assert "Where student and teacher differ" in page.text and "teacher: catstudent: dog" in page.text
    assert next(a for t, a in page.tags if t == "img")["alt"] == "teacher: cat, student: dog"


def test_a_thumbnail_that_is_no_png_is_refused(tmp_path):
    with pytest.raises(MarrowError, match="not a PNG"):
        written(tmp_path, sample(), thumbnails=[{"png": b"<svg>", "label": "", "teacher": "", "student": ""}])
    assert not list(tmp_path.iterdir())


def test_a_confusion_matrix_that_there_is_not_has_a_reason(tmp_path):
    text = written(tmp_path, sample(confusion=None, confusion_reason="A backbone has no classes."))
    assert "A backbone has no classes." in text.split('id="confusion"')[1]


def test_the_class_that_loses_most_stands_first(tmp_path):
    lines = cells(written(tmp_path, sample(per_class=recalls())), "classes")
    assert lines[0] == ["class 2", "12", "89.0 %", "−1.0", "", "90.0 %", "–"]
    assert [line[3] for line in lines] == ["−1.0", "−0.5", "±0.0"]


def test_without_a_teacher_the_worst_class_stands_first(tmp_path):
    given = [{**r, "recall": {"int8": r["recall"]["int8"]}} for r in recalls()]
    given.append({"class": "none", "n": 0, "recall": {"int8": None}})
    text = written(tmp_path, unlabelled("agreement", per_class=given))
    assert [line[0] for line in cells(text, "classes")] == ["class 2", "class 1", "class 0", "none"]
    assert "against teacher" not in text and "Of the images that the teacher puts into a class" in text
