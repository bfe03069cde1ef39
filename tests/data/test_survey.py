import io
import json
import os
import resource

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from marrow.cli import main
from marrow.core.source import Unreadable
from marrow.data import open_source
from marrow.data.folder import ImageFolder
from marrow.data.header import header
from marrow.survey import as_text, survey, survey_of

from ..messy import SPITEFUL, messy

NASTY = f"{SPITEFUL}.png"


def counts(found: dict) -> dict[str, int]:
    return {row["what"]: row["count"] for row in found["findings"]}


def row(found: dict, what: str) -> dict:
    return next(row for row in found["findings"] if row["what"].startswith(what))


@pytest.fixture
def strange(tmp_path):
    """A stranger's folder, and what is to be counted in it."""
    return tmp_path / "messy", messy(tmp_path / "messy")


def snapshot(root) -> dict:
    paths = [os.path.join(at, name) for at, folders, files in os.walk(root) for name in (*folders, *files)]
    return {p: (s.st_mtime_ns, s.st_size, s.st_mode, s.st_nlink) for p in paths if len(p) < 4000
            for s in [os.lstat(p)]}  # fmt: skip


def test_a_messy_folder_is_counted_in_full_and_left_as_it_was(strange):
    root, expected = strange
    before, memory = snapshot(root), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = survey_of(str(root))
    assert snapshot(root) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB: 400 million pixels are more
    assert counts(found) == expected
    assert found["splits"]["test"] | {"bytes": 0} == {"images": 23, "classes": 6, "unreadable": 0, "bytes": 0}
    assert found["splits"]["train"]["unreadable"] == 7 and found["splits"]["train"]["images"] == found["images"] - 23
    assert found["classes"]["caf\\xe9"] == {"train": 6, "test": 0} and found["sizes"]["max"] == [100, 27]
    severities = [r["severity"] for r in found["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "note").index) and "error" not in severities
    assert row(found, "the same file")["examples"] == ["train: cat/3.png (cat) = train: dog/not a dog.png (dog)"]
    assert row(found, "images of test that are copies")["examples"] == ["test: cat/seen.png = train: cat/4.png"]
    assert sorted(row(found, "images of test that are near")["examples"]) == [
        "test: cat/larger.png = train: cat/6.png", "test: cat/squeezed.jpg = train: cat/5.png"]  # fmt: skip
    assert row(found, "near copies")["examples"] == ["train: cat/cmyk.jpg = train: cat/1.png"]
    assert row(found, "classes whose names")["examples"] == ["Dog = dog"]
    assert all(r["remedy"] and len(r["examples"]) <= 3 for r in found["findings"])
    json.dumps(found, ensure_ascii=False).encode()  # whatever names there are, a report can be written


def test_a_messy_folder_can_be_read_around_what_is_wrong(strange):
    source = open_source({"images": str(strange[0]), "split": "train"})
    assert source.classes == ["Dog", "caf\\xe9", "cat", "dog", "hen..", f"owl {SPITEFUL}"]
    unreadable = 0
    for i in range(len(source)):
        try:
            assert source[i]["image"].shape[0] == 3
        except Unreadable:
            unreadable += 1
    assert unreadable == 7


def test_the_text_fits_and_holds_nothing_that_steers_a_terminal(strange):
    text = as_text(survey_of(str(strange[0])), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text and "train: cat/4.png" in text


def test_a_file_that_vanishes_after_the_listing_is_counted(photos):
    source = open_source({"images": str(photos)})
    (photos / "dog" / "1.png").unlink()
    found = survey({"all": source})
    assert row(found, "damaged images")["examples"] == ["dog/1.png: No such file or directory"]
    assert found["splits"]["all"]["unreadable"] == 1 and found["images"] == 12


def test_a_folder_that_may_only_be_read(photos):
    folders = [photos, *photos.iterdir()]
    before = survey_of(str(photos)) | {"seconds": 0}
    for folder in folders:
        folder.chmod(0o555)
    assert survey_of(str(photos)) | {"seconds": 0} == before
    for folder in folders:
        folder.chmod(0o755)


def test_a_thousand_classes(tmp_path, encoded):
    content = [encoded(0), encoded(1)]
    for c in range(1000):
        (tmp_path / f"{c:04}").mkdir()
        for i in range(2):
            (tmp_path / f"{c:04}" / f"{i}.png").write_bytes(content[i])
    found = survey({"all": open_source({"images": str(tmp_path)})}, images=50)
    assert len(found["classes"]) == 1000 and counts(found)["classes with fewer than 20 images in all"] == 1000
    assert "... 980 more" in as_text({"name": "x", **found}) and len(as_text({"name": "x", **found})) < 4000


def test_groups_that_cross_the_splits_of_a_data_set(tmp_path, picture):
    for split, names in {"train": ("a1", "a2", "b1"), "val": ("c1", "c2"), "test": ("a3", "c3", "d1", "x")}.items():
        for c in range(2):
            (tmp_path / split / str(c)).mkdir(parents=True)
            for i, name in enumerate(names):
                picture(hash((split, c, i)) % 10**6).save(tmp_path / split / str(c) / f"{name}.png")
    found = survey_of(str(tmp_path), group=r"([a-d])\d\.png")
    leak = row(found, "images of test from groups")
    assert (leak["severity"], leak["count"]) == ("warning", 4)
    assert leak["examples"] == ["test: 0/a3.png (a)", "test: 0/c3.png (c)", "test: 1/a3.png (a)"]
    assert not any("groups" in what for what in counts(survey_of(str(tmp_path))))


def test_names_are_shown_on_one_line(tmp_path, encoded):
    for name in ("a" + NASTY, "b" + NASTY, "c" + "x" * 200 + ".png"):
        (tmp_path / name).write_bytes(encoded(0))
    one, two = row(survey_of(str(tmp_path)), "copies of another")["examples"]
    assert one == "b=cmd <b>\"'\\n\\x1b[31m.png = a=cmd <b>\"'\\n\\x1b[31m.png" and len(two) == 120


def test_a_clean_folder_has_no_findings(tmp_path, picture):
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(20):
            picture(100 * c + i).save(tmp_path / name / f"{i}.png")
    found = survey_of(str(tmp_path))
    assert found["findings"] == [] and found["looked_at"] == "all headers and pixels"
    assert found["splits"]["all"]["images"] == 40 and found["formats"] == {"PNG": 40}
    assert "Nothing was found to be wrong." in as_text(found)


def test_distinct_digits_are_not_taken_for_near_copies():
    found = survey_of("digits")
    assert found["images"] == found["decoded"] == 1797 and found["findings"] == []


def test_copies_in_parquet_and_a_leak_between_its_splits(tmp_path, encoded):
    def write(name, seeds, labels):
        images = pa.array([{"bytes": encoded(s), "path": ""} for s in seeds])
        pq.write_table(pa.table({"image": images, "label": pa.array(labels)}), tmp_path / f"{name}.parquet")

    write("train", [*range(40), 7], [*[0] * 20, *[1] * 20, 0])
    write("test", [39, 50, 51], [1, 0, 0])
    found = survey_of(str(tmp_path))
    assert counts(found) == {"copies of another image in the same split": 1,
                             "images of test that are copies of images learnt or chosen by": 1}  # fmt: skip
    assert row(found, "copies")["examples"] == ["train: train.parquet/40 = train: train.parquet/7"]
    assert found["classes"] == {"0": {"train": 21, "test": 2}, "1": {"train": 20, "test": 1}}


def test_shards_and_torchvision_sets(tmp_path, mnist, shard, encoded):
    images = [("0.jpg", encoded(0, "JPEG")), ("0.cls", b"0"), ("1.jpg", encoded(1, "JPEG")), ("1.cls", b"1")]
    found = survey_of(str(shard(tmp_path / "a.tar", [*images, ("9.jpg", b"torn"), ("9.cls", b"0")])))
    assert found["splits"]["all"] | {"bytes": 0} == {"images": 3, "classes": 2, "unreadable": 1, "bytes": 0}
    found = survey_of("torchvision:MNIST", root=str(mnist))
    assert found["splits"]["test"] == {"images": 6, "classes": 10, "unreadable": 0, "bytes": 0}
    assert found["sizes"]["median"] == [28, 28] and counts(found)["classes without an image in test"] == 4


@pytest.mark.parametrize(("classes", "what"), [
    ({"cat": 3}, "only one class in all"),
    ({"cat": 3, "dog": 1}, "classes with fewer than 2 images in all"),
])  # fmt: skip
def test_what_training_cannot_get_around_is_an_error(tmp_path, picture, classes, what, capsys):
    for c, (name, n) in enumerate(classes.items()):
        (tmp_path / name).mkdir()
        for i in range(n):
            picture(10 * c + i).save(tmp_path / name / f"{i}.png")
    assert row(survey_of(str(tmp_path)), what)["severity"] == "error"
    with pytest.raises(SystemExit) as ended:
        main(["data", str(tmp_path)])
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and what in out and err.startswith("error: 1 error and 1 warning in ")


def test_a_folder_whose_labels_are_unclear_is_looked_at_without(photos, picture):
    picture(40).save(photos / "stray.png")
    first = survey_of(str(photos))["findings"][0]
    assert first["severity"] == "error" and "both at its top (1) and in sub-folders (12)" in first["what"]
    assert "labels: false" in first["remedy"]


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    found = survey_of(str(tmp_path))
    assert row(found, "images of all, none")["severity"] == "error" and found["sizes"] == {}


def test_strict_makes_warnings_errors(photos, capsys):
    codes = {}
    for options in ((), ("--strict",)):  # four images a class: a warning
        with pytest.raises(SystemExit) as ended:
            main(["data", str(photos), "--json", *options])
        out, err = capsys.readouterr()
        codes[options] = ended.value.code
        assert counts(json.loads(out)) == {"classes with fewer than 20 images in all": 3}
    assert codes == {(): 0, ("--strict",): 2} and "1 warning in" in err


def test_a_sample_is_decoded_of_what_is_large_and_the_words_say_so(photos):
    whole, part = open_source({"images": str(photos)}), survey({"all": ImageFolder(photos, "data")}, images=5)
    assert part["images"] == 12 and part["decoded"] == 5 and "a sample of 5, chosen by content" in part["looked_at"]
    assert survey({"all": whole}, pixels=24 * 32 * 7)["decoded"] == 7
    assert survey({"all": whole}, pixels=24 * 32 * 7)["sizes"] == survey({"all": whole})["sizes"]


def test_one_image_under_a_second_label_is_found_by_its_looks(photos, picture):
    picture(0).save(photos / "owl" / "cat.jpg", quality=90)
    found = survey_of(str(photos))
    assert row(found, "images that look the same")["examples"] == ["cat/0.png (cat) = owl/cat.jpg (owl)"]
    assert counts(found)["near copies of another image in the same split"] == 1


def test_header_reads_what_pixels_do_not_tell(encoded):
    read = header(encoded(0, "JPEG", "L"), "a.png")
    assert (read.format, read.height, read.width, read.kinds) == ("JPEG", 24, 32, ("grey", "wrong ending"))
    assert header(encoded(0, "PNG"), "train.parquet/3").kinds == ()
    deep = io.BytesIO()
    Image.fromarray(np.zeros((4, 6), np.uint16)).save(deep, "TIFF")
    assert header(deep.getvalue(), "a.tif").kinds == ("grey", "16 bit")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_a_damaged_header_is_unreadable_and_nothing_else(form, encoded):
    rng, whole = np.random.default_rng(1), np.frombuffer(encoded(6, form), np.uint8)
    ended = 0
    for _ in range(150):
        data = whole[: rng.integers(0, len(whole))].copy()
        data[rng.integers(0, max(1, len(data)), 4) % max(1, len(data))] = 255 if len(data) else 0
        try:
            ended += header(data.tobytes(), "x").height >= 0
        except Unreadable:
            ended += 1
    assert ended == 150
