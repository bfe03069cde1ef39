import shutil

import pytest
import torch

from marrow.core.artifact import save
from marrow.core.errors import MarrowError
from marrow.core.table import Table
from marrow.data import class_counts, imbalanced, open_source

NAMES = ("train", "val", "test")


def names(mapping):
    source = open_source(mapping)
    return {source.name(i) for i in range(len(source))}


def test_copies_never_cross_a_split(photos):
    for i in range(4):
        for other in ("dog", "owl"):
            shutil.copy(photos / "cat" / f"{i}.png", photos / other / f"copy-{i}.png")
    side = {}
    for low in range(10):
        part = {"images": str(photos), "hash": [low / 10, (low + 1) / 10]}
        try:
            side.update(dict.fromkeys(names(part), low))
        except MarrowError as error:
            assert "is left by" in str(error)
    assert len(side) == 20
    for i in range(4):
        assert side[f"cat/{i}.png"] == side[f"dog/copy-{i}.png"] == side[f"owl/copy-{i}.png"]


def test_a_tenth_of_a_split_is_a_tenth():
    for split in NAMES:
        whole, part = (
            names({"images": "digits", "split": split}),
            names({"images": "digits", "split": split, "hash": [0.0, 0.1]}),
        )
        rest = names({"images": "digits", "split": split, "hash": [0.1, 1.0]})
        assert part | rest == whole and not part & rest and 0.05 < len(part) / len(whole) < 0.15


def test_per_class_takes_the_lowest_hashes():
    source, whole = open_source({"images": "digits", "per_class": 5}), open_source({"images": "digits"})
    assert [source.label(i) for i in range(50)].count(3) == 5 and len(source) == 50
    threes = sorted(whole.fraction(i) for i in range(len(whole)) if whole.label(i) == 3)
    assert sorted(source.fraction(i) for i in range(50) if source.label(i) == 3) == threes[:5]


def test_larger_draws_hold_the_smaller_ones():
    few, more = ({"images": "digits", "per_class": k} for k in (3, 9))
    assert names(few) < names(more)
    assert names({"images": "digits", "fraction": 0.1}) < names({"images": "digits", "fraction": 0.2})


def test_fraction_is_a_share_of_each_class_and_of_everything_without_labels():
    source, whole = open_source({"images": "digits", "fraction": 0.1}), open_source({"images": "digits"})
    for c in range(10):
        of_class = sum(whole.label(i) == c for i in range(len(whole)))
        assert sum(source.label(i) == c for i in range(len(source))) == round(0.1 * of_class)


def test_salt_draws_anew_and_the_same_again():
    one, two = ({"images": "digits", "per_class": 5, "salt": s} for s in (1, 2))
    assert names(one) == names(one) != names(two) and names(two) != names({"images": "digits", "per_class": 5})


def test_salt_leaves_the_splits_alone():
    salted = names({"images": "digits", "split": "train", "fraction": 0.5, "salt": 7})
    assert not salted & names({"images": "digits", "split": "test"})


def test_labels_false_drops_them_after_the_cut():
    source = open_source({"images": "digits", "per_class": 2, "labels": False})
    assert len(source) == 20 and source.classes is None and source.label(0) is None and "label" not in source[0]


def test_only_keeps_classes_in_the_order_of_the_set(photos):
    source = open_source({"images": str(photos), "only": ["owl", "cat"]})
    assert source.classes == ["cat", "owl"] and [source.label(i) for i in range(8)] == [0] * 4 + [1] * 4
    assert source[7]["label"] == 1


def test_indices_from_a_list_and_from_an_artifact(photos, tmp_path):
    save(tmp_path / "chosen", Table({"index": torch.tensor([5, 0])}))
    for given in ([5, 0], str(tmp_path / "chosen")):
        source = open_source({"images": str(photos), "indices": given})
        assert [source.name(i) for i in range(2)] == ["dog/1.png", "cat/0.png"]


def test_a_data_artifact_is_a_source(tmp_path):
    images = torch.randint(0, 256, (6, 3, 4, 4), dtype=torch.uint8)
    save(tmp_path / "made", Table({"image": images, "label": torch.arange(6) % 2}), labels=["x", "y"])
    source = open_source({"images": str(tmp_path / "made")})
    assert source.classes == ["x", "y"] and torch.equal(source[4]["image"], images[4]) and source[5]["label"] == 1


@pytest.mark.parametrize("wrong, message", [
    ({"only": ["bird", "owl"]}, r"^data.only: unknown class 'bird'"),
    ({"per_class": 9}, r"^data.per_class: class 'cat' has 4 examples, 9 are asked for"),
    ({"indices": [3, 12]}, r"^data.indices: indices reach from 3 to 12, the source has 12 examples"),
    ({"hash": [0.0, 1e-9]}, r"^data: no example of .* is left by hash"),
    ({"per_class": 1, "fraction": 0.5}, r"^data: per_class and fraction exclude each other"),
])  # fmt: skip
def test_cuts_that_do_not_fit(photos, wrong, message):
    with pytest.raises(MarrowError, match=message):
        open_source({"images": str(photos), **wrong})


def test_classes_need_labels(tmp_path, picture):
    picture(0).save(tmp_path / "a.png")
    with pytest.raises(MarrowError, match="data.only: classes are chosen by name, but the source has no labels"):
        open_source({"images": str(tmp_path), "only": ["a"]})
    with pytest.raises(MarrowError, match="data.per_class: the source has no labels to count by class"):
        open_source({"images": str(tmp_path), "per_class": 1})


def test_artifacts_of_the_wrong_kind(photos, tmp_path):
    save(tmp_path / "made", Table({"score": torch.zeros(3)}))
    with pytest.raises(MarrowError, match=r"^data.images: .* has no column 'image'; it has score"):
        open_source({"images": str(tmp_path / "made")})
    with pytest.raises(MarrowError, match=r"^data.indices: .* has no column 'index'"):
        open_source({"images": str(photos), "indices": str(tmp_path / "made")})


def test_without_leaves_out_copies_and_groups_of_what_is_held_out(photos, tmp_path):
    pool = tmp_path / "pool"
    shutil.copytree(photos, pool)
    (pool / "dog" / "0.png").rename(pool / "cat" / "another name.png")
    held = {"images": str(photos), "only": ["dog"]}
    kept = open_source({"images": str(pool), "labels": False, "without": [held]})
    assert sorted(kept.name(i) for i in range(len(kept))) == [f"{c}/{i}.png" for c in ("cat", "owl") for i in range(4)]
    nothing = {"images": str(photos), "without": [{"images": str(photos)}]}
    with pytest.raises(MarrowError, match=r"no example of .* is left by without: "):
        open_source(nothing)
    scene = {"images": str(photos), "group": r"([0-3])\.png", "only": ["owl"], "indices": [9]}
    rest = open_source({"images": str(photos), "group": r"([0-3])\.png", "without": [scene]})
    assert {rest.group(i) for i in range(len(rest))} == {"0", "2", "3"} and len(rest) == 9


def test_without_is_checked_like_any_source(photos):
    with pytest.raises(MarrowError, match=r"^data.without\[0\].image: unknown key 'image'; did you mean 'images'"):
        open_source({"images": str(photos), "without": [{"images": str(photos), "image": "x"}]})
    with pytest.raises(MarrowError, match="^data.without: a list of sources is needed, got 'x'"):
        open_source({"images": str(photos), "without": "x"})


def test_classes_number_the_labels_of_a_folder_that_lacks_some(photos):
    source = open_source({"images": str(photos), "only": ["cat", "owl"], "classes": ["ant", "cat", "dog", "owl"]})
    assert source.classes == ["ant", "cat", "dog", "owl"]
    assert [source.label(i) for i in (0, 4)] == [source[i]["label"] for i in (0, 4)] == [1, 3]
    assert class_counts(source) == {"ant": 0, "cat": 4, "dog": 0, "owl": 4}


def test_classes_that_the_training_images_do_not_have(photos):
    words = "^data.classes: there are images of 'dog', which the training images do not have; did you mean 'dogs'"
    with pytest.raises(MarrowError, match=words):
        open_source({"images": str(photos), "classes": ["cat", "dogs", "owl"]})
    with pytest.raises(MarrowError, match="^data.classes: the images have no labels. Put each class"):
        open_source({"images": str(photos / "cat"), "classes": ["cat", "dog"]})


def test_imbalance_has_the_threshold_of_the_finding():
    assert imbalanced({"a": 100, "b": 20}) and not imbalanced({"a": 100, "b": 21})
    assert not imbalanced({"a": 100, "b": 0}) and not imbalanced({})
    assert class_counts(open_source({"images": "digits", "labels": False})) == {}
