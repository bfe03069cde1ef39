"""Class maps: which of the user's classes each of the teacher's is, and files that are none."""

import pytest

from marrow.core.errors import MarrowError
from marrow.make.class_map import read

TEACHER = ["tabby", "tiger cat", "beagle", "teapot"]
CLASSES = ["cat", "dog"]


def written(tmp_path, text):
    file = tmp_path / "map.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def refused(tmp_path, text):
    with pytest.raises(MarrowError) as caught:
        read(written(tmp_path, text), TEACHER, CLASSES)
    return str(caught.value)


@pytest.mark.parametrize("text", [
    "tabby: cat\ntiger cat: cat\nbeagle: dog\nteapot: null\n",
    "tabby: cat\ntiger cat: cat\nbeagle: dog\n",
    '{"tabby": "cat", "1": "cat", "2": "dog"}',
])  # fmt: skip
def test_names_numbers_and_json(tmp_path, text):
    assert read(written(tmp_path, text), TEACHER, CLASSES) == (0, 0, 1, -1)


def test_a_class_called_as_a_number_is_looked_up_by_its_name(tmp_path):
    assert read(written(tmp_path, "'1': a\n'0': b\n"), ["1", "0"], ["a", "b"]) == (0, 1)


def test_all_problems_are_told_at_once(tmp_path):
    said = refused(tmp_path, "taby: cat\ntabby: cat\nbeagle: dogg\n9: dog\n")
    assert "3 problems in" in said
    assert "--class-map: the teacher has no class 'taby'; did you mean 'tabby'?" in said
    assert "--class-map: the data has no class 'dogg'; did you mean 'dog'?" in said
    assert "--class-map: the teacher has no class '9'" in said


def test_a_class_of_the_data_that_nothing_stands_for(tmp_path):
    assert refused(tmp_path, "tabby: cat\n") == "--class-map: no class of the teacher stands for 'dog'"


@pytest.mark.parametrize("text", ["", "just words", "- tabby\n- beagle\n", "tabby: [cat, dog]\n", "a: {b: c}\n", "a: b: c\n",
                                  "tabby: cat\ntabby: dog\n"])  # fmt: skip
def test_a_file_that_is_no_class_map(tmp_path, text):
    said = refused(tmp_path, text)
    assert said.startswith("--class-map: ") and "lines such as 'tabby: cat'" in said


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(MarrowError, match="--class-map: no file none.yaml"):
        read("none.yaml", TEACHER, CLASSES)
    (tmp_path / "map.yaml").write_bytes(b"\xff\xfe\x00tabby")
    with pytest.raises(MarrowError, match="--class-map: .* cannot be read"):
        read(str(tmp_path / "map.yaml"), TEACHER, CLASSES)
