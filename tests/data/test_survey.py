import io
import json
import os
import resource
import shutil
import struct
import zlib

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

NASTY = "=cmd <b>\"'\n\x1b[31m.png"


def counts(found: dict) -> dict[str, int]:
    return {row["what"]: row["count"] for row in found["findings"]}


def row(found: dict, what: str) -> dict:
    return next(row for row in found["findings"] if row["what"].startswith(what))


def png_of(width: int, height: int) -> bytes:
    """A black 1-bit PNG of any size, without holding its pixels."""
    packed, line = zlib.compressobj(1), bytes(1 + -(-width // 8))
    pixels = b"".join([packed.compress(line) for _ in range(height)] + [packed.flush()])
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), b"IDAT" + pixels, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks
    )


def too_deep(folder) -> None:
    """A folder whose path is longer than the system takes: root too cannot open it by its name."""
    at = os.open(folder, os.O_RDONLY)
    for _ in range(18):
        os.mkdir("d" * 250, dir_fd=at)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


@pytest.fixture
def messy(tmp_path, picture):
    """Everything that people have in their folders, in train and test."""
    root = tmp_path / "messy"
    for c, (name, n) in enumerate({"cat": 21, "dog": 20, "owl": 3}.items()):
        for split, first, count in (("train", 0, n), ("test", 500, 2)):
            (root / split / name).mkdir(parents=True)
            for i in range(first, first + count):
                picture(1000 * c + i).save(root / split / name / f"{i}.png")
    cat, dog, test = root / "train" / "cat", root / "train" / "dog", root / "test"
    picture(1).convert("CMYK").save(cat / "cmyk.jpg")  # looks like 1.png
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(100).save(cat / "turned.jpg", exif=exif)
    Image.fromarray(np.random.default_rng(0).integers(0, 2**16, (24, 32), np.uint16)).save(cat / "deep.png")
    with_alpha = picture(101).copy()
    with_alpha.putalpha(77)
    with_alpha.save(cat / "alpha.png")
    picture(102).convert("P").save(cat / "palette.png")
    frames = [picture(i).convert("P") for i in (103, 104)]
    frames[0].save(cat / "moving.gif", save_all=True, append_images=frames[1:])
    picture(105).convert("L").save(cat / "grey.png")
    picture(106, 1, 1).save(cat / "dot.png")
    picture(107, 20, 100).save(cat / "wide.png")
    picture(108).save(cat / "photo.jpg", "PNG")
    picture(109).save(cat / NASTY)
    (cat / "empty.png").write_bytes(b"")
    (cat / "letter.jpg").write_text("Dear Sir")
    (cat / "cut.png").write_bytes((cat / "0.png").read_bytes()[:300])
    (cat / "huge.png").write_bytes(png_of(20_000, 20_000))
    with open(cat / "long.png", "wb") as file:
        file.truncate(2**31)  # a sparse file of 2 GiB
    (cat / "notes.txt").write_text("no picture")
    (cat / ".hidden").write_text("not counted")
    (cat / "loop.png").symlink_to("loop.png")
    (cat / "around").symlink_to(root, target_is_directory=True)
    picture(110).save(tmp_path / "secret.png")
    (cat / "out.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(cat / "pipe.png")
    too_deep(cat)
    (root / "train" / "papers").mkdir()
    shutil.copy(cat / "2.png", cat / "2 again.png")
    shutil.copy(cat / "3.png", dog / "not a dog.png")
    shutil.copy(cat / "4.png", test / "cat" / "seen.png")
    picture(5).save(test / "cat" / "squeezed.jpg", quality=90)
    picture(6).resize((36, 27), Image.Resampling.BICUBIC).save(test / "cat" / "larger.png")
    return root


def snapshot(root) -> dict:
    paths = [os.path.join(at, name) for at, folders, files in os.walk(root) for name in (*folders, *files)]
    return {p: (s.st_mtime_ns, s.st_size, s.st_mode, s.st_nlink) for p in paths if len(p) < 4000
            for s in [os.lstat(p)]}  # fmt: skip


def test_a_messy_folder_is_counted_in_full_and_left_as_it_was(messy):
    before, memory = snapshot(messy), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = survey_of(str(messy))
    assert snapshot(messy) == before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 200_000  # kB: 400 million pixels are more
    assert counts(found) == {
        "empty files": 1,
        "files that are no images": 1,
        "images too large to decode": 2,
        "damaged images, or such as cannot be opened": 1,
        "folders that cannot be opened": 1,
        "links out of the folder": 2,
        "links that lead nowhere or in a circle": 1,
        "sub-folders without an image": 1,
        "classes with fewer than 20 images in train": 1,
        "classes much smaller than the largest, which has up to 13 times as many images": 1,
        "the same file with different labels": 1,
        "images of test that are copies of images learnt or chosen by": 1,
        "images of test that are near copies of images learnt or chosen by": 2,
        "images less than 16 pixels high or wide": 1,
        "files that are no images by their ending": 1,
        "neither files nor folders": 1,
        "copies of another image in the same split": 2,
        "near copies of another image in the same split": 1,
        "images more than 4 times as long as wide": 1,
        "files whose ending names another format": 1,
        "CMYK images": 1,
        "images with 16 bits a channel": 1,
        "images with transparency": 1,
        "palette images": 2,
        "animations or files of several pages": 1,
        "images turned by EXIF": 1,
        "grey images": 2,
    }
    assert found["splits"]["test"] | {"bytes": 0} == {"images": 9, "classes": 3, "unreadable": 0, "bytes": 0}
    assert found["splits"]["train"]["unreadable"] == 5 and found["splits"]["train"]["images"] == found["images"] - 9
    assert found["classes"]["owl"] == {"train": 3, "test": 2} and found["sizes"]["max"] == [100, 27]
    severities = [r["severity"] for r in found["findings"]]
    assert severities == sorted(severities, key=("error", "warning", "note").index) and "error" not in severities
    assert row(found, "the same file")["examples"] == ["train: cat/3.png (cat) = train: dog/not a dog.png (dog)"]
    assert row(found, "images of test that are copies")["examples"] == ["test: cat/seen.png = train: cat/4.png"]
    assert sorted(row(found, "images of test that are near")["examples"]) == [
        "test: cat/larger.png = train: cat/6.png", "test: cat/squeezed.jpg = train: cat/5.png"]  # fmt: skip
    assert row(found, "near copies")["examples"] == ["train: cat/cmyk.jpg = train: cat/1.png"]
    assert all(r["remedy"] and len(r["examples"]) <= 3 for r in found["findings"])


def test_a_messy_folder_can_be_read_around_what_is_wrong(messy):
    source = open_source({"images": str(messy), "split": "train"})
    assert source.classes == ["cat", "dog", "owl"]
    unreadable = 0
    for i in range(len(source)):
        try:
            assert source[i]["image"].shape[0] == 3
        except Unreadable:
            unreadable += 1
    assert unreadable == 5


def test_the_text_fits_and_holds_nothing_that_steers_a_terminal(messy):
    text = as_text(survey_of(str(messy)), width=100)
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text and "train: cat/4.png" in text


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
