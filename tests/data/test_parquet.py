import json
import pickle
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from marrow.core.errors import MarrowError
from marrow.core.source import Unreadable
from marrow.data import open_source, splits_of
from marrow.data.parquet import Parquet


def about(names):
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": names}}
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


@pytest.fixture
def written(tmp_path, encoded):
    """Writes a file of pictures with further columns, 5 rows a row group."""

    def write(name="train.parquet", count=12, names=("cat", "dog"), first=0, **columns):
        images = [{"bytes": encoded(first + i), "path": f"{i}.png"} for i in range(count)]
        if names:
            columns.setdefault("label", [i % 2 for i in range(count)])
        table = pa.table({"image": images, **columns})
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        pq.write_table(table.replace_schema_metadata(about(list(names)) if names else None), path, row_group_size=5)
        return path

    return write


def test_rows_labels_and_names(written):
    source = Parquet([written()], "data")
    assert len(source) == 12 and source.classes == ["cat", "dog"]
    assert source[11]["image"].shape == (3, 24, 32) and source[11]["label"] == source.label(11) == 1
    assert source.name(7) == "train.parquet/7 (7.png)"


def test_a_row_is_called_by_the_name_that_is_stored_with_it(tmp_path, encoded):
    images = pa.array([{"bytes": encoded(0), "path": "ignored.png"}] * 3)
    pq.write_table(pa.table({"image": images, "name": ["a", "b", "scene 6"]}), tmp_path / "b.parquet")
    named = Parquet([tmp_path / "b.parquet"], "data")
    assert named.name(2) == "b.parquet/2 (scene 6)" and named[2]["name"] == "scene 6"
    paths = ["/home/ann/photos/1.png", "C:\\ann\\2.png", "ann/3.png", None]
    images = pa.array([{"bytes": encoded(0), "path": path} for path in paths])
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    source = Parquet([tmp_path / "a.parquet"], "data")
    assert [source.name(i).partition("/")[2] for i in range(4)] == ["0 (1.png)", "1 (2.png)", "2 (ann/3.png)", "3"]
    pq.write_table(pa.table({"image": [{"bytes": encoded(0), "path": None}]}), tmp_path / "c.parquet")
    both = Parquet([tmp_path / "a.parquet", tmp_path / "c.parquet"], "data")
    assert both.name(0) == "a.parquet/0" and both.name(4) == "c.parquet/0"
    large = pa.table({"image": images, "name": pa.array(list("wxyz"), pa.large_string())})
    pq.write_table(large, tmp_path / "d.parquet")
    assert pickle.loads(pickle.dumps(Parquet([tmp_path / "d.parquet"], "data"))).name(3) == "d.parquet/3 (z)"


def test_other_columns_become_fields(written, encoded):
    masks = [{"bytes": encoded(i, mode="L"), "path": None} for i in range(3)]
    path = written(count=3, names=(), mask=masks, name_=["a", "b", "c"], set=[1, 2, 2], boxes=[[1.0], [], [2.0]])
    example = Parquet([path], "data")[1]
    assert set(example) == {"image", "mask", "name_", "set"} and (example["name_"], example["set"]) == ("b", 2)
    assert example["mask"].shape == (24, 32) and example["mask"].dtype == torch.int64


def test_plain_binary_column(tmp_path, encoded):
    pq.write_table(pa.table({"image": [encoded(0), encoded(1)]}), tmp_path / "a.parquet")
    source = Parquet([tmp_path / "a.parquet"], "data")
    assert source.classes is None and source[1]["image"].shape == (3, 24, 32)


def test_labels_without_names_are_counted_over_all_splits(written, tmp_path):
    written("train.parquet", 6, (), label=[1, 2, 5, 1, 2, 5])
    written("test.parquet", 2, (), label=[5, 1])
    test = open_source({"images": str(tmp_path), "split": "test"})
    assert test.classes == ["1", "2", "5"] and [test.label(0), test.label(1)] == [2, 0]


def test_text_labels(written):
    source = Parquet([written(count=3, names=(), label=["owl", "cat", "owl"])], "data")
    assert source.classes == ["cat", "owl"] and source[0]["label"] == 1


def test_splits_by_file_name(written, tmp_path):
    written("data/train-00000-of-00002.parquet")
    written("data/train-00001-of-00002.parquet", first=20)
    written("data/validation-00000-of-00001.parquet", 4, first=40)
    assert splits_of(str(tmp_path)) == ("train", "val")
    train = open_source({"images": str(tmp_path), "split": "train"})
    assert len(train) == 24 and train.name(13) == "train-00001-of-00002.parquet/1 (1.png)"
    assert len(open_source({"images": str(tmp_path), "split": "val"})) == 4
    assert len(open_source({"images": str(tmp_path)})) == 28


def test_fraction_is_that_of_the_stored_bytes(written):
    one, two = Parquet([written("a.parquet")], "data"), Parquet([written("b.parquet", first=5, count=3)], "data")
    assert two.fraction(0) == one.fraction(5) != one.fraction(6)


def test_large_files_are_read_by_row_group(tmp_path, encoded):
    pictures = [encoded(0), encoded(1)]
    pq.write_table(
        pa.table({"image": [pictures[i % 2] for i in range(3000)]}), tmp_path / "a.parquet", row_group_size=300
    )
    source, resident = (Parquet([tmp_path / "a.parquet"], "data", resident=n) for n in (1000, 10**9))
    order = source.order(torch.Generator().manual_seed(0)).tolist()
    assert sorted(order) == list(range(3000)) and len({i // 300 for i in order[:1024]}) in (4, 5)
    for i in range(0, 3000, 100):
        assert torch.equal(source[i]["image"], resident[i]["image"])
    assert len(source._kept) == 5 < len(resident._kept) == 10 and source.fingerprint() == resident.fingerprint()


def test_a_test_file_without_labels(written, tmp_path):
    written("train.parquet", 4, (), label=["owl", "cat", "owl", "cat"])
    written("test.parquet", 3, ())
    assert open_source({"images": str(tmp_path), "split": "train"}).classes == ["cat", "owl"]
    assert open_source({"images": str(tmp_path), "split": "test"}).classes is None


def test_two_workers_and_pickle(written):
    source = Parquet([written()], "data")
    source[0]
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy[9]["image"], source[9]["image"])
    loaded = list(DataLoader(source, batch_size=4, num_workers=2))
    assert torch.equal(torch.cat([b["image"] for b in loaded]), torch.stack([source[i]["image"] for i in range(12)]))


def test_a_row_without_bytes_is_unreadable(tmp_path, encoded):
    rows = [{"bytes": encoded(0), "path": "a"}, {"bytes": None, "path": "b"}]
    pq.write_table(pa.table({"image": rows}), tmp_path / "a.parquet")
    source = Parquet([tmp_path / "a.parquet"], "data")
    with pytest.raises(Unreadable, match=r"a.parquet/1 \(b\): the row holds no image bytes"):
        source[1]
    assert source.fraction(1) != source.fraction(0)


def test_no_image_column(tmp_path):
    pq.write_table(pa.table({"img": [b"x"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(MarrowError, match="^data.images: a.parquet has no column 'image'; it has img, label"):
        open_source({"images": str(tmp_path / "a.parquet")})


def test_labels_outside_the_names(written):
    path = written(count=3, label=[0, 2, -1])
    with pytest.raises(MarrowError, match=r"row 1 has label 2, outside 0..1 \(2 such rows\)"):
        Parquet([path], "data")
    assert len(Parquet([path], "data", labelled=False)) == 3


def test_missing_labels(written):
    with pytest.raises(MarrowError, match="1 rows of train.parquet have no label"):
        Parquet([written(count=2, label=[0, None])], "data")


def test_files_with_different_classes(written):
    with pytest.raises(MarrowError, match="columns or class names of a.parquet, b.parquet differ"):
        Parquet([written("a.parquet"), written("b.parquet", names=("cat", "owl"))], "data")


@pytest.mark.parametrize(("metadata", "said"), [
    (b"{", "what a.parquet says about its columns .'huggingface'. is no JSON. Give 'labels: false'"),
    (b"\xff", "is no JSON"),
    (b"[" * 100_000, "is no JSON"),
    (b'{"info": {"features": {"label": {"names": "cat"}}}}', "the class names in a.parquet are no list of distinct"),
    (b'{"info": {"features": {"label": {"names": [1, 2]}}}}', "are no list of distinct texts"),
    (b'{"info": {"features": {"label": {"names": ["a", "a"]}}}}', "are no list of distinct texts"),
    (b"[]", None), (b"3", None), (b'{"info": []}', None), (b'{"info": {"features": 3}}', None),
    (b'{"info": {"features": {"label": ["a"]}}}', None),
])  # fmt: skip
def test_metadata_of_any_kind(tmp_path, encoded, metadata, said):
    """Class names that cannot be read are no reason to invent others; metadata without any is common."""
    table = pa.table({"image": [encoded(0), encoded(1)], "label": [0, 1]})
    pq.write_table(table.replace_schema_metadata({b"huggingface": metadata}), tmp_path / "a.parquet")
    if said is None:
        assert Parquet([tmp_path / "a.parquet"], "data").classes == ["0", "1"]
        return
    with pytest.raises(MarrowError, match=said):
        Parquet([tmp_path / "a.parquet"], "data")
    assert len(Parquet([tmp_path / "a.parquet"], "data", labelled=False)) == 2


@pytest.mark.parametrize(("labels", "said"), [
    (pa.array([[1], [2]]), "column 'label' of a.parquet is list<.*>; integer or string is needed"),
    (pa.array([b"a", b"b"]), "is binary; integer or string is needed"),
    (pa.array([0.5, 1.5]), "is double; integer or string is needed"),
    (pa.array([{"x": 1}, {"x": 2}]), "is struct<.*>; integer or string is needed"),
])  # fmt: skip
def test_labels_of_other_types(tmp_path, encoded, labels, said):
    pq.write_table(pa.table({"image": [encoded(0), encoded(1)], "label": labels}), tmp_path / "a.parquet")
    with pytest.raises(MarrowError, match=said):
        Parquet([tmp_path / "a.parquet"], "data")


def test_numbers_here_and_texts_there(tmp_path, encoded):
    for name, labels in (("train", [0, 1]), ("test", ["a", "b"])):
        pq.write_table(pa.table({"image": [encoded(0), encoded(1)], "label": labels}), tmp_path / f"{name}.parquet")
    with pytest.raises(MarrowError, match="columns or class names|numbers and those of others texts"):
        open_source({"images": str(tmp_path)})


def test_a_column_twice(tmp_path, encoded):
    table = pa.table([pa.array([encoded(0)]), pa.array([0]), pa.array([1])], names=["image", "label", "label"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(MarrowError, match="a.parquet has the column 'label' more than once"):
        Parquet([tmp_path / "a.parquet"], "data")


def test_texts_that_are_none(tmp_path, encoded):
    words = pa.array([b"\xff\xfe", b"b"]).view(pa.string())
    for column in ("name", "label", "more"):
        pq.write_table(pa.table({"image": [encoded(0), encoded(1)], column: words}), tmp_path / "a.parquet")
        with pytest.raises(MarrowError, match="a.parquet is damaged .*Invalid UTF8"):
            source = Parquet([tmp_path / "a.parquet"], "data")
            source[0]


def test_a_file_with_any_byte_changed(written):
    """It is read, or refused in a sentence, or a picture is unreadable."""
    path = written(mask=[{"bytes": b"", "path": None}] * 12, more=[f"n{i}" for i in range(12)])
    whole, draw = path.read_bytes(), random.Random(1)
    refused = 0
    for _ in range(150):
        spoilt, start = bytearray(whole), draw.choice([0, len(whole) - 2500])  # half of them in what describes the file
        for _ in range(draw.randint(1, 3)):
            spoilt[draw.randrange(max(0, start), len(whole))] = draw.randrange(256)
        path.write_bytes(spoilt)
        try:
            source = Parquet([path], "data")
            for i in range(len(source)):
                try:
                    source[i], source.fraction(i)
                except Unreadable as error:
                    assert error.reason
        except MarrowError as error:
            refused += bool(str(error))
    assert 5 < refused


def test_no_parquet_file(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(MarrowError, match="a.parquet is not a readable parquet file"):
        Parquet([tmp_path / "a.parquet"], "data")


def test_without_pyarrow_the_extra_is_named(written, monkeypatch):
    path = written()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MarrowError, match=r'This step needs pyarrow. Install it with: pip install "marrow\[hf\]"'):
        Parquet([path], "data")


def test_real_sets(data):
    cifar = open_source({"images": str(data / "cifar10-lossless"), "split": "train"})
    assert len(cifar) == 4000 and len(cifar.classes) == 10 and cifar[0]["image"].shape == (3, 32, 32)
    cells = open_source({"images": str(data / "wbc")})
    assert cells.classes == ["1", "2", "3", "4", "5"] and cells[0]["mask"].shape == cells[0]["image"].shape[1:]
    street = open_source({"images": str(data / "camvid"), "split": "val"})
    assert len(street) == 101 and street.classes is None and street[0]["mask"].max() <= 11
    assert street[0]["name"].endswith(".png")
