"""`group`: what belongs together by its name stays on one side of every cut."""

import numpy as np
import pytest
from PIL import Image

from marrow.core.errors import MarrowError
from marrow.data import open_source
from marrow.data.combine import Joined, Subset, Unlabelled
from marrow.data.groups import Grouped

PATTERN = r"p(\d+)_"


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Forty patients with three pictures each, half of them in each of two classes, and four pictures of nobody."""
    root = tmp_path_factory.mktemp("patients")
    rng = np.random.default_rng(0)
    for name in ("ill", "well"):
        (root / name).mkdir()
    for p in range(40):
        for i in range(3):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(root / ("ill", "well")[p % 2] / f"p{p}_{i}.png")
    for i in range(4):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(root / "ill" / f"stray{i}.png")
    return str(root)


def opened(images, **keys):
    return open_source({"images": images, "group": PATTERN} | keys)


def groups(source):
    return {source.group(i) for i in range(len(source))} - {None}


def names(source):
    return {source.name(i) for i in range(len(source))}


def test_no_patient_is_on_two_sides_of_the_split(patients):
    parts = [opened(patients, split=split) for split in ("train", "val", "test")]
    assert sum(map(len, parts)) == 124 and all(groups(part) for part in parts)
    for i, a in enumerate(parts):
        for b in parts[i + 1 :]:
            assert not groups(a) & groups(b)
    apart = [open_source({"images": patients, "split": split}) for split in ("train", "val", "test")]
    sides = [{name.split("/")[1].split("_")[0] for name in names(part)} for part in apart]
    assert sides[0] & sides[1]  # by content they are: the fixture could show it


def test_hash_with_and_without_salt_keeps_patients_whole(patients):
    for keys in ({}, {"salt": 3}, {"split": "train"}):
        low, high = (opened(patients, hash=cut, **keys) for cut in ([0.0, 0.4], [0.4, 1.0]))
        assert groups(low) and groups(high) and not groups(low) & groups(high)
    assert names(opened(patients, hash=[0.0, 0.4])) != names(opened(patients, hash=[0.0, 0.4], salt=3))


def test_a_few_of_each_class_come_from_as_few_patients_as_can_be(patients):
    for source in (opened(patients, per_class=7), opened(patients, fraction=0.1)):
        labels = [source.label(i) for i in range(len(source))]
        for label in (0, 1):
            of = [source.group(i) for i in range(len(source)) if labels[i] == label and source.group(i) is not None]
            assert sum(of.count(g) < 3 for g in set(of)) <= 1


def test_what_has_no_group_stands_for_itself(patients):
    source, plain = opened(patients), open_source({"images": patients})
    strays = [i for i in range(len(source)) if source.group(i) is None]
    assert [source.name(i) for i in strays] == [f"ill/stray{i}.png" for i in range(4)]
    assert all(source.fraction(i) == plain.fraction(i) for i in range(len(source)))


def test_the_whole_match_names_the_group_where_no_part_is_bracketed(patients):
    source = open_source({"images": patients, "group": r"p\d+"})
    assert groups(source) == {f"p{i}" for i in range(40)}


def test_what_is_made_of_a_source_knows_its_groups(patients):
    source = opened(patients)
    assert Unlabelled(source).group(5) == Joined([source, source]).group(129) == source.group(5) is not None
    assert Subset(source, [7, 5]).group(1) == source.group(5) and open_source({"images": patients}).group(5) is None


def test_the_fingerprint_changes_with_the_pattern_and_with_the_pictures(patients, tmp_path):
    plain = open_source({"images": patients})
    prints = {source.fingerprint() for source in (plain, opened(patients), Grouped(plain, r"p(\d)", "group"))}
    assert len(prints) == 3 and opened(patients).fingerprint() in prints
    for root, colour in (("a", 10), ("b", 20)):
        (tmp_path / root).mkdir()
        for i in range(3):
            Image.new("RGB", (8, 8), (colour, i, 0)).save(tmp_path / root / f"p{i}_0.png")
    assert opened(str(tmp_path / "a")).fingerprint() != opened(str(tmp_path / "b")).fingerprint()


@pytest.mark.parametrize(("pattern", "words"), [
    ("p(", r"^data.group: 'p\(' is no regular expression: missing \), unterminated subpattern at position 1"),
    ("p{99999999999}", "is no regular expression: the repetition number is too large"),
    ("scene", "^data.group: 'scene' is in no name; names are such as ill/p0_0.png, ill/p0_1.png, ill/p0_2.png"),
    (r"(png)", "^data.group: '.png.' puts all 124 images into one group, 'png'; names are such as ill/p0_0.png"),
    ("(x*)", "is in no name"),
])  # fmt: skip
def test_patterns_that_name_nothing_are_refused(patients, pattern, words):
    with pytest.raises(MarrowError, match=words):
        open_source({"images": patients, "group": pattern})


@pytest.mark.parametrize("pattern", [r"(?:p\d*)*(?:\d*)*!", r"(.*_?)*!", r".*.*.*.*.*.*.*.*.*.*!", r"p(\d+)*!"])
def test_a_pattern_without_an_end_is_given_up(tmp_path, picture, pattern):
    picture(0).save(tmp_path / f"p{'1' * 200}_0.png")
    picture(1).save(tmp_path / "p2_0.png")
    with pytest.raises(
        MarrowError, match=r"^data.group: '.*' was searched in 2 names for \d seconds without an end. Wri"
    ):
        opened(str(tmp_path), group=pattern)


def test_patterns_too_long_or_too_deep_are_none(patients):
    for pattern in ("p" * 1001, "(" * 1001):
        with pytest.raises(MarrowError, match="^data.group: a regular expression of at most 1000 characters is needed"):
            opened(patients, group=pattern)
    for pattern in ("(?:" * 300 + "x", "(" * 500 + ")" * 500):
        # How deep is too deep depends on how deep Python is already.
        with pytest.raises(MarrowError, match="^data.group: "):
            opened(patients, group=pattern)


def test_a_split_that_the_data_brings_may_be_one_group(tmp_path, picture):
    for split, patient in (("train", 1), ("test", 2)):
        (tmp_path / split).mkdir()
        for i in range(2):
            picture(10 * patient + i).save(tmp_path / split / f"p{patient}_{i}.png")
    assert groups(opened(str(tmp_path), split="test")) == {"2"} and len(opened(str(tmp_path))) == 4


def test_names_in_shards_and_parquet(tmp_path, shard, encoded):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = shard(tmp_path / "a.tar", [(f"p{i // 2}_{i}.png", encoded(i)) for i in range(6)])
    images = pa.array([{"bytes": encoded(i), "path": f"p{i // 2}_{i}.png"} for i in range(6)])
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    for file in (path, tmp_path / "a.parquet"):
        source = opened(str(file))
        assert [source.group(i) for i in range(6)] == ["0", "0", "1", "1", "2", "2"]
