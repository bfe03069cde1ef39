"""Copying a data set into shards and reading it back."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile

import pytest
import torch
from safetensors.numpy import load, save

from marrow.cli import main
from marrow.core.errors import MarrowError
from marrow.core.loader import Data, TrainBatches
from marrow.core.settings import Settings
from marrow.core.source import Unreadable
from marrow.data import open_source
from marrow.data.shard_index import changed
from marrow.data.views import Augment
from marrow.data.write_shards import as_text, write_shards
from marrow.survey import survey_of

SMALL = "12kB"  # three or four of the pictures


@pytest.fixture
def split_photos(tmp_path, picture):
    """train (18) and val (6) of three classes, one of which val lacks; a name with a dot, a damaged file, an empty one."""
    root = tmp_path / "photos"
    for split, classes, count in (("train", ("cat", "dog", "owl"), 6), ("val", ("cat", "owl"), 3)):
        for c, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                picture(100 * len(split) + 10 * c + i).save(root / split / name / f"patient{i // 2}.{i}.png")
    (root / "train" / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    (root / "train" / "dog" / "empty.jpg").write_bytes(b"")
    return root


def rows(source) -> dict:
    """Everything about each example, by the name that the folder gives it."""
    found = {}
    for i in range(len(source)):
        name = source.name(i)
        name = name[name.index("(") + 1 : -1] if ".tar/" in name else name
        label = source.label(i)
        found[name] = (source.stored(i), None if label is None else source.classes[label], source.fraction(i))
    return found


@pytest.mark.parametrize("indexed", [True, False])
def test_what_is_written_is_read_again(indexed, tmp_path, split_photos):
    facts = write_shards(str(split_photos), tmp_path / "shards", SMALL)
    assert facts["examples"] == 26 and facts["shards"] > 4 and facts["unreadable"] == {} == dict(facts["left_out"])
    if not indexed:
        for file in (tmp_path / "shards").glob("*index*"):
            file.unlink()
    for split in ("train", "val"):
        before = open_source({"images": str(split_photos), "split": split})
        after = open_source({"images": str(tmp_path / "shards"), "split": split})
        assert rows(after) == rows(before) and after.classes == before.classes == ["cat", "dog", "owl"]
        names = [after.name(i) for i in range(len(after))]
        assert names != sorted(names, key=lambda n: n[n.index("(") :])  # one class after another would be no training
    cut = {"hash": [0.0, 0.5], "group": r"patient(\d+)", "split": "train"}
    halves = [rows(open_source({"images": str(place), **cut})) for place in (split_photos, tmp_path / "shards")]
    assert halves[0] == halves[1] and 0 < len(halves[0]) < 20
    with pytest.raises(Unreadable, match="empty"):
        source = open_source({"images": str(tmp_path / "shards")})
        source[next(i for i in range(len(source)) if "empty.jpg" in source.name(i))]


def test_equal_data_make_equal_shards_and_others_can_read_them(tmp_path, split_photos):
    for name in ("a", "b"):
        write_shards(str(split_photos), tmp_path / name, SMALL)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and changed(tmp_path / "a") == []
    with tarfile.open(tmp_path / "a" / "train-000000.tar") as tar:
        members = tar.getmembers()
        about = json.load(tar.extractfile(members[0]))
    assert [m.name.partition(".")[0] for m in members[:2]] == [members[0].name.partition(".")[0]] * 2
    assert set(about) == {"name", "label", "class"} and about["name"].startswith(about["class"])
    assert {m.mtime for m in members} == {0} and not any(m.uname for m in members)


def contents(folder) -> dict:
    return {f.name: f.read_bytes() for f in folder.iterdir()}


def test_pixels_become_png_and_keep_their_place_in_the_splits(tmp_path):
    write_shards("digits", tmp_path / "shards")
    before, after = open_source({"images": "digits", "split": "val"}), open_source({"images": str(tmp_path / "shards"),
                                                                                    "split": "val"})  # fmt: skip
    assert len(before) == len(after) and sorted(after.fraction(i) for i in range(len(after))) == sorted(
        before.fraction(i) for i in range(len(before)))  # fmt: skip
    place = {after.name(i).split("/")[-1][:-1]: i for i in range(len(after))}
    for i in (0, 50):
        twin = after[place[before.name(i).split("/")[-1]]]
        assert torch.equal(twin["image"], before[i]["image"]) and twin["label"] == before[i]["label"]


def test_without_labels_and_with_fields_that_have_no_place(tmp_path, encoded, photos):
    from pyarrow import parquet, table

    parquet.write_table(table({"image": [encoded(i) for i in range(3)], "mask": [encoded(i, mode="L") for i in range(3)],
                               "domain": ["a", "b", "a"]}), tmp_path / "p.parquet")  # fmt: skip
    facts = write_shards(str(tmp_path / "p.parquet"), tmp_path / "shards")
    assert facts["left_out"] == ["domain"] and "left out of every example" in as_text(facts)
    source = open_source({"images": str(tmp_path / "shards")})
    assert source.classes is None and source.label(0) is None and set(source[0]) == {"image", "mask"}
    assert "p.parquet/" in source.name(0)


def test_every_example_once_an_epoch_over_ranks_and_workers(tmp_path, photos):
    write_shards(str(photos), tmp_path / "shards", SMALL)
    data = Data({"train": open_source({"images": str(tmp_path / "shards")})})
    settings = Settings(steps=9, batch=4, workers=2)
    seen = [TrainBatches(data, ("train",), Augment((16, 16)), settings, rank=r, world=2) for r in range(2)]
    once = [index for step in range(3) for rank in seen for _, index in rank.keys(step)["train"]]
    assert sorted(once) == list(range(12))
    shown = [[next(rank) for _ in range(6)] for rank in seen]
    labels = torch.cat([b["label"] for rank in shown for b in rank[:3]])
    assert labels.bincount().tolist() == [4, 4, 4]
    for r in range(2):  # a run that starts again at step 4 sees what follows, to the bit
        late = TrainBatches(data, ("train",), Augment((16, 16)), settings, start_step=4, rank=r, world=2)
        assert all(torch.equal(next(late)["image"], shown[r][s]["image"]) for s in (4, 5))


def test_an_interrupted_call_goes_on(tmp_path, photos):
    write_shards(str(photos), tmp_path / "whole", SMALL)
    script = ("import sys, time; from marrow.data.write_shards import write_shards\n"
              "write_shards(sys.argv[1], sys.argv[2], sys.argv[3], told=lambda line: (print(line, flush=True), time.sleep(60)))")  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", script, str(photos), str(tmp_path / "cut"), SMALL], stdout=subprocess.PIPE
    )
    assert b"images-000000.tar" in child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    (tmp_path / "cut" / ".images-000001.part").write_bytes(b"half of one")
    with pytest.raises(MarrowError, match="the shards are not all written yet"):
        open_source({"images": str(tmp_path / "cut")})
    first = (tmp_path / "cut" / "images-000000.tar").stat().st_mtime_ns
    lines = []
    write_shards(str(photos), tmp_path / "cut", SMALL, told=lines.append)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole") and lines[0].startswith("images-000001.tar")
    assert (tmp_path / "cut" / "images-000000.tar").stat().st_mtime_ns == first
    lines.clear()
    write_shards(str(photos), tmp_path / "cut", SMALL, told=lines.append)
    assert not lines


def test_places_that_are_refused(tmp_path, photos):
    for inside in (photos, photos / "cat" / "shards"):
        with pytest.raises(MarrowError, match="^--to-shards: .* lies inside the data"):
            write_shards(str(photos), inside)
    assert not (photos / "cat" / "shards").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(MarrowError, match="is not empty"):
        write_shards(str(photos), tmp_path / "full")
    write_shards(str(photos), tmp_path / "shards")
    with pytest.raises(MarrowError, match="holds shards of other data, or of another size"):
        write_shards(str(photos), tmp_path / "shards", "1GB")
    for size in ("12", "0MB", "-1MB", "MB"):
        with pytest.raises(MarrowError, match="^--shard-size: .* is no size"):
            write_shards(str(photos), tmp_path / "new", size)


def test_what_is_wrong_with_shards_is_said(tmp_path, photos, shard, encoded):
    write_shards(str(photos), tmp_path / "s", SMALL)
    images = {"images": str(tmp_path / "s")}
    third = tmp_path / "s" / "images-000002.tar"
    whole = third.read_bytes()

    def refused(sentence):
        with pytest.raises(MarrowError, match=sentence) as error:
            open_source(images)
        assert str(error.value).startswith("data.images: ")

    third.unlink()
    refused(r"images-000002.tar of \d shards is missing")
    third.write_bytes(whole[:-600])
    refused(r"images-000002.tar has [\d,]+ bytes, not the [\d,]+ that index.json lists: it was cut off")
    third.write_bytes(whole)
    copy = third.with_name("images-000002 (1).tar")
    copy.write_bytes(whole)
    refused(r"images-000002 \(1\).tar is not among the shards that index.json lists, and may be a copy of one")
    copy.unlink()
    index = third.with_suffix(".index")
    kept = index.read_bytes()
    index.write_bytes(kept[:-1] + b"?")
    refused("images-000002.index is damaged: its checksum")
    index.unlink()
    refused("images-000002.index cannot be read")
    index.write_bytes(kept)
    listed = (tmp_path / "s" / "index.json").read_text()
    (tmp_path / "s" / "index.json").write_text("{")
    refused("index.json beside the shards is damaged")
    (tmp_path / "s" / "index.json").write_text(listed)

    assert survey_of(str(tmp_path / "s"))["findings"] == survey_of(str(photos))["findings"]
    third.write_bytes(whole[:700] + bytes([whole[700] ^ 1]) + whole[701:])  # as long as before
    assert changed(tmp_path / "s") == [third.name]
    (worst,) = [f for f in survey_of(str(tmp_path / "s"))["findings"] if f["severity"] == "error"]
    assert worst["examples"] == [third.name]


@pytest.mark.parametrize(("change", "said"), [
    (lambda found: [found], "index.json beside the shards is none of 'marrow shards 1'"),
    (lambda found: {**found, "shards": list(found["shards"])}, "is none of"),
    (lambda found: {**found, "shards": {k: {**v, "bytes": "9"} for k, v in found["shards"].items()}}, "is none of"),
    (lambda found: {**found, "shards": {f"../{k}": v for k, v in found["shards"].items()}}, "is none of"),
    (lambda found: {**found, "shards": {k: {**v, "examples": 10**15} for k, v in found["shards"].items()}},
     "speaks of other samples than"),
    (lambda found: {**found, "classes": ["cat", "cat", "owl"]}, "is none of"),
    (lambda found: {**found, "classes": ["cat"]}, "the index knows 1 classes, and a label is 2"),
    (lambda found: {**found, "format": "marrow shards 2"}, "is none of 'marrow shards 1'"),
])  # fmt: skip
def test_an_index_of_another_kind_is_refused(tmp_path, photos, change, said):
    write_shards(str(photos), tmp_path / "s")
    file = tmp_path / "s" / "index.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(MarrowError, match=said):
        open_source({"images": str(tmp_path / "s")})


@pytest.mark.parametrize("change", [
    {"offsets": 2**63 - 5, "sizes": 2**62}, {"sizes": 2**40}, {"offsets": -1}, {"fractions": 7.0}, {"ends": 10**9},
])  # fmt: skip
def test_a_forged_index_of_a_shard_is_refused(tmp_path, photos, change):
    """Its checksum in index.json is right, since whoever writes the one can write the other."""
    write_shards(str(photos), tmp_path / "s")
    (index,) = (tmp_path / "s").glob("*.index")
    columns = load(index.read_bytes())
    for name, value in change.items():
        columns[name] = columns[name].copy()
        columns[name][-1] = value
    index.write_bytes(save(columns))
    listed = json.loads((tmp_path / "s" / "index.json").read_text())
    (facts,) = listed["shards"].values()
    facts["index"] = hashlib.sha256(index.read_bytes()).hexdigest()
    (tmp_path / "s" / "index.json").write_text(json.dumps(listed))
    with pytest.raises(MarrowError, match="speaks of other samples than"):
        open_source({"images": str(tmp_path / "s")})


@pytest.mark.parametrize("content", ["[]", "{", '{"shards": 3, "source": ""}', '{"shards": {}, "unreadable": []}'])
def test_a_forged_beginning_of_a_copy_is_refused(tmp_path, photos, content):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "writing.json").write_text(content)
    with pytest.raises(MarrowError, match="writing.json"):
        write_shards(str(photos), tmp_path / "s")


def test_what_is_wrong_without_an_index_is_said(tmp_path, shard, encoded):
    one, two = ("1.png", encoded(1)), ("2.png", encoded(2))
    for members, sentence in (([one, two, one], "a.tar holds '1.png' twice"),
                              ([("1.json", b'{"label": [1]}'), one], "the label in a.tar/1.json is ")):  # fmt: skip
        with pytest.raises(MarrowError, match=sentence):
            open_source({"images": str(shard(tmp_path / "a.tar", members))})
    whole = shard(tmp_path / "b" / "a.tar", [one, two]).read_bytes()
    (tmp_path / "b" / "b.tar").write_bytes(whole)
    with pytest.raises(MarrowError, match="b.tar holds the same samples as a.tar"):
        open_source({"images": str(tmp_path / "b")})
    end = 2 * 512 + sum(-(-len(c) // 512) * 512 for _, c in (one, two))
    (tmp_path / "b" / "b.tar").write_bytes(whole[:end])
    with pytest.raises(MarrowError, match="b.tar is cut off: the two empty blocks"):
        open_source({"images": str(tmp_path / "b")})
    shard(tmp_path / "b" / "b.tar", [("3.cls", b"0"), ("4.png", encoded(4))])
    (skipped,) = open_source({"images": str(tmp_path / "b")}).skipped()
    assert (skipped.reason, skipped.count, skipped.examples) == ("samples without an image", 1, ("b.tar/3",))


def test_a_shard_that_shrinks_while_it_is_read(tmp_path, photos):
    write_shards(str(photos), tmp_path / "s")
    source = open_source({"images": str(tmp_path / "s")})
    os.truncate(tmp_path / "s" / "images-000000.tar", 2000)
    with pytest.raises(Unreadable, match="the shard ends before it"):
        source[len(source) - 1]


def test_the_command(tmp_path, photos, capsys):
    def command(*options):
        with pytest.raises(SystemExit) as ended:
            main(["data", str(photos), "--to-shards", str(tmp_path / "s"), *options])
        return ended.value.code, *capsys.readouterr()

    code, out, err = command("--json")
    assert code == 0 and json.loads(out)["examples"] == 12 and "12 of 12" in err
    assert command("--strict")[0] == command("--shard-size", "9")[0] == 2
    code, out, err = command()
    assert code == 0 and out.startswith("12 examples in 1 shards") and not err
