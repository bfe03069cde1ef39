import os
import pickle
import shutil

import pytest
import torch
from torch.utils.data import DataLoader

from marrow.core.errors import MarrowError
from marrow.core.loader import Data, train_batches
from marrow.core.settings import Settings
from marrow.core.source import Unreadable
from marrow.data import open_source
from marrow.data.combine import Joined, Unlabelled
from marrow.data.folder import ImageFolder


def test_labels_are_the_sorted_sub_folders(photos):
    source = ImageFolder(photos, "data")
    assert source.classes == ["cat", "dog", "owl"] and len(source) == 12
    assert [source.label(i) for i in range(12)] == [0] * 4 + [1] * 4 + [2] * 4
    assert source.name(5) == "dog/1.png" and source[5]["label"] == 1 and source[5]["image"].shape == (3, 24, 32)


def test_flat_folder_has_no_labels(tmp_path, picture):
    for i in range(3):
        picture(i).save(tmp_path / f"{i}.jpg")
    source = ImageFolder(tmp_path, "data")
    assert source.classes is None and source.label(0) is None and set(source[0]) == {"image"}


def test_hidden_files_and_other_files_are_passed_over(photos, picture):
    (photos / "cat" / "notes.txt").write_text("no picture")
    picture(99).save(photos / "cat" / ".hidden.png")
    (photos / ".thumbnails").mkdir()
    picture(98).save(photos / ".thumbnails" / "a.png")
    source = ImageFolder(photos, "data")
    assert len(source) == 12 and source.classes == ["cat", "dog", "owl"]


def test_nothing_is_written(photos):
    before = {p: p.stat().st_mtime_ns for p in photos.rglob("*")}
    source = ImageFolder(photos, "data")
    source.fingerprint(), source[0]
    assert {p: p.stat().st_mtime_ns for p in photos.rglob("*")} == before


def test_links_out_of_the_folder_are_not_followed(photos, tmp_path, picture):
    (tmp_path / "elsewhere").mkdir()
    picture(50).save(tmp_path / "elsewhere" / "secret.png")
    (photos / "cat" / "out.png").symlink_to(tmp_path / "elsewhere" / "secret.png")
    (photos / "cat" / "in.png").symlink_to(photos / "dog" / "0.png")
    (photos / "zebra").symlink_to(tmp_path / "elsewhere")
    source = ImageFolder(photos, "data")
    names = [source.name(i) for i in range(len(source))]
    assert "cat/in.png" in names and "cat/out.png" not in names and source.classes == ["cat", "dog", "owl"]


def test_copies_share_their_fraction_whatever_they_are_called(photos):
    shutil.copy(photos / "cat" / "0.png", photos / "owl" / "copy of cat.png")
    source = ImageFolder(photos, "data")
    fraction = {source.name(i): source.fraction(i) for i in range(len(source))}
    assert fraction["cat/0.png"] == fraction["owl/copy of cat.png"] != fraction["cat/1.png"]
    assert all(0 <= f < 1 for f in fraction.values())


def test_fractions_do_not_depend_on_place_or_order(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "moved")
    one, two = ImageFolder(photos, "data"), ImageFolder(tmp_path / "moved", "data")
    assert [two.fraction(i) for i in reversed(range(12))][::-1] == [one.fraction(i) for i in range(12)]
    assert one.fingerprint() == two.fingerprint()


def test_fingerprint_changes_with_a_label_and_with_a_pixel(photos):
    before = ImageFolder(photos, "data").fingerprint()
    data = (photos / "cat" / "3.png").read_bytes()
    (photos / "cat" / "3.png").write_bytes(data + b"\0")
    changed = ImageFolder(photos, "data").fingerprint()
    (photos / "cat" / "3.png").rename(photos / "dog" / "3b.png")
    assert len({before, changed, ImageFolder(photos, "data").fingerprint()}) == 3


def test_images_at_the_top_and_in_sub_folders_are_refused_when_labelled(photos, picture):
    picture(40).save(photos / "stray.png")
    with pytest.raises(MarrowError, match=r"^data.images: .* both at its top \(1\) and in sub-folders \(12\)"):
        ImageFolder(photos, "data.images")
    assert len(ImageFolder(photos, "data.images", labelled=False)) == 13


def test_empty_folder(tmp_path):
    with pytest.raises(MarrowError, match="^data.images: no images in "):
        ImageFolder(tmp_path, "data.images")


def test_unreadable_files_are_named_with_a_reason(photos):
    (photos / "cat" / "0.png").write_bytes(b"")
    (photos / "cat" / "1.png").write_bytes((photos / "cat" / "1.png").read_bytes()[:200])
    source = ImageFolder(photos, "data")
    (photos / "cat" / "2.png").unlink()
    for i, reason in enumerate(("the file is empty", "truncated", "No such file")):
        with pytest.raises(Unreadable, match=reason) as caught:
            source[i]
        assert caught.value.name == f"cat/{i}.png"
    assert 0 <= source.fraction(2) < 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_goes_on_around_unreadable_files(photos, workers):
    (photos / "cat" / "0.png").write_bytes(b"")
    (photos / "dog" / "3.png").write_text("no picture")
    source = ImageFolder(photos, "data")
    batches = train_batches(Data({"train": source}), ("train",), None, Settings(steps=2, batch=12, workers=workers))
    batch = next(batches)
    assert batch["image"].shape == (12, 3, 24, 32) and set(batches.unreadable) == {"cat/0.png", "dog/3.png"}
    assert sorted(batch["label"].tolist()) == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]  # the next one took their place


def test_unreadable_passes_through_pickle():
    error = pickle.loads(pickle.dumps(Unreadable("a.png", "the file is empty")))
    assert (error.name, error.reason) == ("a.png", "the file is empty")


def test_two_workers_read_what_one_process_reads(photos):
    source = ImageFolder(photos, "data")
    copy = pickle.loads(pickle.dumps(source))
    assert torch.equal(copy[7]["image"], source[7]["image"])
    loaded = list(DataLoader(source, batch_size=4, num_workers=2))
    assert torch.equal(torch.cat([b["image"] for b in loaded]), torch.stack([source[i]["image"] for i in range(12)]))
    assert torch.cat([b["label"] for b in loaded]).tolist() == [source.label(i) for i in range(12)]


def test_names_that_are_no_utf8_can_still_be_printed(tmp_path, encoded):
    odd = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    with open(odd, "wb") as file:
        file.write(encoded(0))
    source = ImageFolder(tmp_path, "data")
    assert source.name(0).encode() == b"caf\\xe9.png" and source[0]["image"].shape == (3, 24, 32)


def test_what_is_passed_over_is_counted(photos, tmp_path, picture):
    (photos / "cat" / "notes.txt").write_text("no picture")
    for i in range(4):
        (photos / "dog" / f"around{i}.png").symlink_to(f"around{i}.png")
    (photos / "again").symlink_to(photos / "cat")
    picture(50).save(tmp_path / "secret.png")
    (photos / "cat" / "out.png").symlink_to(tmp_path / "secret.png")
    (photos / "empty" / "below").mkdir(parents=True)
    source = ImageFolder(photos, "data")
    assert source.classes == ["cat", "dog", "owl"] and len(source) == 12
    assert {row.reason: (row.count, row.examples) for row in source.skipped()} == {
        "files that are no images by their ending": (1, ("cat/notes.txt",)),
        "links that lead nowhere or in a circle": (4, ("dog/around0.png", "dog/around1.png", "dog/around2.png")),
        "links to folders": (1, ("again",)),
        "links out of the folder": (1, ("cat/out.png",)),
        "sub-folders without an image": (1, ("empty",)),
    }


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_without_the_right_to_read_is_passed_over(photos):
    (photos / "dog").chmod(0)
    source = ImageFolder(photos, "data")
    (photos / "dog").chmod(0o755)
    assert source.classes == ["cat", "owl"]
    assert [(row.reason, row.examples) for row in source.skipped()] == [("folders that cannot be opened", ("dog/",))]


def test_a_file_too_large_for_memory_is_not_read(photos):
    with open(photos / "cat" / "0.png", "wb") as file:
        file.truncate(2**40)  # sparse: it takes no room
    with pytest.raises(Unreadable, match="too large to decode"):
        ImageFolder(photos, "data")[0]


def test_stored_bytes_are_those_of_the_file(photos):
    joined = open_source({"images": str(photos), "only": ["dog", "owl"]})
    assert joined.stored(5) == (photos / "owl" / "1.png").read_bytes()
    assert Unlabelled(Joined([joined, joined])).stored(9) == (photos / "dog" / "1.png").read_bytes()
