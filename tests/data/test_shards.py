import json
import pickle
import random

import pytest
import torch
from torch.utils.data import DataLoader

from marrow.core.errors import MarrowError
from marrow.core.source import Unreadable
from marrow.data import open_source
from marrow.data.shards import Shards


@pytest.fixture
def shards(tmp_path, encoded, shard):
    """Three shards of 4 pictures with numbers as labels."""
    for s in range(3):
        members = []
        for i in range(4 * s, 4 * s + 4):
            members += [(f"{i:04d}.png", encoded(i)), (f"{i:04d}.cls", str(i % 3).encode())]
        shard(tmp_path / "shards" / f"{s:06d}.tar", members)
    return tmp_path / "shards"


def test_pictures_labels_and_names(shards, picture):
    source = open_source({"images": str(shards)})
    assert len(source) == 12 and source.classes == ["0", "1", "2"]
    assert [source.label(i) for i in range(12)] == [i % 3 for i in range(12)]
    assert source.name(5) == "000001.tar/0005" and source[5]["label"] == 2
    assert source[5]["image"].shape == (3, 24, 32)


def test_class_names_beside_the_shards(shards):
    (shards / "classes.txt").write_text("cat\ndog\nowl")
    assert open_source({"images": str(shards)}).classes == ["cat", "dog", "owl"]
    (shards / "classes.txt").unlink()
    (shards / "classes.json").write_text('["ant", "bee", "fly"]')
    assert open_source({"images": str(shards)}).classes == ["ant", "bee", "fly"]


def test_json_labels_and_folders_inside(tmp_path, shard, encoded):
    members = []
    for i, name in enumerate(("owl", "cat", "owl")):
        members += [(f"part/a{i}.json", json.dumps({"label": name}).encode()), (f"part/a{i}.jpg", encoded(i, "JPEG"))]
    source = Shards([shard(tmp_path / "a.tar", members)], "data")
    assert source.classes == ["cat", "owl"] and [source.label(i) for i in range(3)] == [1, 0, 1]
    assert source.name(0) == "a.tar/part/a0"


def test_fraction_is_that_of_the_stored_picture(tmp_path, shard, encoded):
    path = shard(tmp_path / "a.tar", [("a.png", encoded(1)), ("b.png", encoded(2)), ("c.png", encoded(1))])
    source = Shards([path], "data")
    assert source.fraction(0) == source.fraction(2) != source.fraction(1) and source.classes is None
    (tmp_path / "one.png").write_bytes(encoded(1))
    (tmp_path / "flat").mkdir()
    (tmp_path / "one.png").rename(tmp_path / "flat" / "one.png")
    assert open_source({"images": str(tmp_path / "flat")}).fraction(0) == source.fraction(0)


def test_an_epoch_stays_close_on_disk(tmp_path, shard, encoded):
    one = encoded(0)
    files = [shard(tmp_path / f"{s}.tar", [(f"{s}-{i}.png", one) for i in range(3000)]) for s in range(4)]
    source = Shards(files, "data")
    order = source.order(torch.Generator().manual_seed(3))
    assert sorted(order.tolist()) == list(range(12000))
    first = {i // 3000 for i in order[:4096].tolist()}
    assert len(first) == 2 and order[:10].tolist() != sorted(order[:10].tolist())


def test_two_workers_and_pickle(shards):
    source = open_source({"images": str(shards)})
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy[3]["image"], source[3]["image"])
    loaded = list(DataLoader(source, batch_size=5, num_workers=2))
    assert torch.equal(torch.cat([b["image"] for b in loaded]), torch.stack([source[i]["image"] for i in range(12)]))


def test_a_damaged_picture_is_unreadable_and_the_rest_is_not(tmp_path, shard, encoded):
    source = Shards([shard(tmp_path / "a.tar", [("a.png", b""), ("b.png", encoded(0))])], "data")
    with pytest.raises(Unreadable, match="a.tar/a: the file is empty"):
        source[0]
    assert source[1]["image"].shape == (3, 24, 32)


def test_a_shard_that_is_cut_off(shards):
    path = shards / "000001.tar"
    path.write_bytes(path.read_bytes()[:1700])
    with pytest.raises(MarrowError, match="^data.images: 000001.tar is cut off inside '"):
        open_source({"images": str(shards)})


def test_a_compressed_file_is_no_shard(tmp_path):
    import gzip

    (tmp_path / "a.tar").write_bytes(gzip.compress(b"x" * 2000))
    with pytest.raises(MarrowError, match="Shards are uncompressed .tar files"):
        Shards([tmp_path / "a.tar"], "data")


def test_some_without_label(tmp_path, shard, encoded):
    path = shard(tmp_path / "a.tar", [("a.png", encoded(0)), ("a.cls", b"0"), ("b.png", encoded(1))])
    with pytest.raises(MarrowError, match="1 of 2 examples in the shards have no label"):
        Shards([path], "data")
    assert len(Shards([path], "data", labelled=False)) == 2


def test_labels_must_be_among_the_names(shards):
    (shards / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(MarrowError, match=r"labels reach from 0 to 2, outside 0..1"):
        open_source({"images": str(shards)})
    (shards / "classes.txt").unlink()
    (shards / "classes.json").write_text("{}")
    with pytest.raises(MarrowError, match="classes.json is not a list of names, each once"):
        open_source({"images": str(shards)})


@pytest.mark.parametrize(("member", "content", "said"), [
    ("a.cls", b"\xff\xfe", "a.tar/a.cls holds no label"),
    ("a.json", b'{"label": true}', "the label in a.tar/a.json is True; a number or a text is needed"),
    ("a.json", b"[" * 100_000, "a.tar/a.json holds no label"),
    ("a.json", b'{"label": 1' + b"0" * 5000 + b"}", "a.tar/a.json holds no label"),
    ("a.cls", b"1000000000000", "the label in a.tar/a.cls is 1000000000000; numbers below 1,048,576 are read"),
    ("a.cls", b"1" * 2_000_000, "a.tar/a.cls has 2,000,000 bytes, more than 1,048,576"),
])  # fmt: skip
def test_labels_that_are_none(tmp_path, shard, encoded, member, content, said):
    with pytest.raises(MarrowError, match=said):
        Shards([shard(tmp_path / "a.tar", [("a.png", encoded(0)), (member, content)])], "data")


@pytest.mark.parametrize(("file", "content", "said"), [
    ("classes.txt", b"cat\ndog\n\xff", "classes.txt is no text in UTF-8"),
    ("classes.txt", b"cat\ndog\ncat", "classes.txt is not a list of names, each once"),
    ("classes.json", b'["cat", 3, "owl"]', "classes.json is not a list of names, each once"),
    ("classes.json", b"[" * 100_000, "classes.json is not JSON"),
])  # fmt: skip
def test_class_names_that_are_none(shards, file, content, said):
    (shards / file).write_bytes(content)
    with pytest.raises(MarrowError, match=said):
        open_source({"images": str(shards)})


def test_a_shard_with_any_byte_changed(shards):
    """Headers, pictures and labels: it is read, or refused in a sentence, or a picture is unreadable."""
    path = shards / "000001.tar"
    whole, draw = path.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(120):
        spoilt = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            spoilt[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(spoilt)
        try:
            source = open_source({"images": str(shards)})
            for i in range(len(source)):
                try:
                    assert source[i]["image"].dtype == torch.uint8
                except Unreadable as error:
                    assert error.reason
        except MarrowError as error:
            refused += bool(str(error))
    assert 5 < refused < 120


def test_no_images(tmp_path, shard):
    with pytest.raises(MarrowError, match="no images in a.tar"):
        Shards([shard(tmp_path / "a.tar", [("a.txt", b"hello")])], "data")
