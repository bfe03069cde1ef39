"""artifact.json from somebody who means harm: every entry of a wrong type, missing, doubled, endless or lying."""

import json

import pytest

from marrow.core.artifact import Artifact
from marrow.core.artifact_check import FIELDS, INPUT

from .inputs import opened, put, refusal, rewrite, saved

KINDS = ("task", "backbone", "data", "report")
WRONG = (None, True, -1, 1.5, 10**30, "", "../../etc/passwd", "x" * 100_000, [], [[]], {}, {"a": {}}, [1, "a", None])
# Values that are among WRONG and right at the same time.
RIGHT = {
    "labels": (None, []), "licences": ([],), "parents": ([],), "recipe": (None, {}, {"a": {}}), "key": (None, "", "../../etc/passwd"),
    "stage": (None, "", "../../etc/passwd"), "seed": (None,), "metrics": ([],), "versions": ({},),
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: saved(kind, tmp_path_factory.mktemp("made") / kind) for kind in KINDS}


@pytest.fixture
def text(folders):
    """The artifact.json of each, put back afterwards."""
    kept = {kind: (folder / "artifact.json").read_bytes() for kind, folder in folders.items()}
    yield kept
    for kind, content in kept.items():
        (folders[kind] / "artifact.json").write_bytes(content)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", FIELDS)
def test_every_entry_of_every_wrong_type(folders, text, kind, field):
    for value in WRONG:
        (folders[kind] / "artifact.json").write_bytes(text[kind])
        good = json.loads(text[kind])[field]
        if (value, type(value)) in [(r, type(r)) for r in (*RIGHT.get(field, ()), good)]:
            continue
        rewrite(folders[kind], lambda m, value=value: put(m, (field,), value))
        refusal(lambda: opened(folders[kind]))


@pytest.mark.parametrize("field", FIELDS)
def test_every_missing_entry_is_named(folders, text, field):
    rewrite(folders["task"], lambda m: m.pop(field))
    assert field in refusal(lambda: opened(folders["task"]))


@pytest.mark.parametrize("field", INPUT)
@pytest.mark.parametrize(
    "value", [None, [], {}, "", "x" * 2000, -1, 0, 10**12, [0, 0], [10**9, 10**9], [1, 2, 3], ["a"], True]
)
def test_every_entry_of_the_input(folders, text, field, value):
    if field in ("mean", "range", "modality") and value in ([0, 0], [10**9, 10**9], [1, 2, 3], "") and value != []:
        pytest.skip("it fits")
    if field == "std" and value in ([10**9, 10**9], [1, 2, 3]):
        pytest.skip("it fits")
    if field in ("frames", "stride"):
        rewrite(folders["backbone"], lambda m: m["input"].update(modality="video", frames=2, stride=1))
    rewrite(folders["backbone"], lambda m: put(m, ("input", field), value))
    assert f"input.{field}" in refusal(lambda: opened(folders["backbone"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is not JSON"),
        (b"\x80\x04\x95\x10", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"a":' * 100_000, "is not JSON"),
        (b'{"kind": ' + b"[" * 900 + b"]" * 900 + b"}", "nested more than 200 levels deep|is not JSON"),
        (b'{"kind": "task", "kind": "data"}', "'kind' is given twice"),
        (b'{"kind": NaN}', "NaN is no number"),
        (b'{"kind": -Infinity}', "-Infinity is no number"),
        (b'{"kind": 1e999}', "1e999 is no number that a float can hold"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"kind": "\\u202ekcaj\\u001b[2J"}', "names no known kind"),
        (b"{}", "names no known kind"),
        (b"[]", "names no known kind"),
        (b'"task"', "names no known kind"),
    ],
)
def test_what_is_no_json_of_ours(folders, text, content, said):
    (folders["task"] / "artifact.json").write_bytes(content)
    refusal(lambda: opened(folders["task"]), said)


def test_a_hundred_megabytes_are_not_read(folders, text):
    with open(folders["task"] / "artifact.json", "r+b") as file:
        file.truncate(100 * 2**20)
    refusal(lambda: opened(folders["task"]), "artifact.json has 104,857,600 bytes, more than")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("../secret", "not a plain file name"),
        ("/etc/passwd", "not a plain file name"),
        ("a/b", "not a plain file name"),
        ("a\\b", "not a plain file name"),
        ("C:x", "not a plain file name"),
        ("..", "not a plain file name"),
        ("", "not a plain file name"),
        ("a\x00b", "not a plain file name"),
        ("a\nb", "not a plain file name"),
        ("nothing", "nothing is missing"),
    ],
)
def test_files_that_are_not_in_the_folder(folders, text, name, said):
    rewrite(folders["task"], lambda m: m["files"].update({name: [1, "0" * 64]}))
    refusal(lambda: opened(folders["task"]), said)


@pytest.mark.parametrize(
    "entry", [None, [], [1], [1, 2], ["1", "0" * 64], [True, "0" * 64], [-1, "0" * 64], [1, "0" * 63], [1, "../x"]]
)
def test_entries_that_are_not_bytes_and_hash(folders, text, entry):
    rewrite(folders["task"], lambda m: m["files"].update({"weights.safetensors": entry}))
    refusal(lambda: opened(folders["task"]), r"the entry of 'weights.safetensors' is not \[bytes, sha256\]")


@pytest.mark.parametrize(
    ("size", "digest", "said"), [(0, 1, "instead of"), (0, -1, "instead of"), (1, 0, "was altered")]
)
def test_sizes_and_hashes_that_lie(folders, text, size, digest, said):
    def lie(meta):
        entry = meta["files"]["weights.safetensors"]
        entry[0] += digest
        entry[1] = "0" * 64 if size else entry[1]

    rewrite(folders["task"], lie)
    refusal(lambda: opened(folders["task"]), said)


def test_links_out_of_the_folder(tmp_path):
    folder = saved("task", tmp_path / "made")
    (folder / "weights.safetensors").rename(tmp_path / "elsewhere")
    (folder / "weights.safetensors").symlink_to("../elsewhere")
    refusal(lambda: opened(folder), "weights.safetensors is a link to a file elsewhere")
    (folder / "weights.safetensors").unlink()
    (folder / "weights.safetensors").symlink_to("/dev/zero")
    refusal(lambda: opened(folder), "weights.safetensors is missing")


def test_a_folder_that_was_linked_to_opens(tmp_path):
    saved("data", tmp_path / "made")
    (tmp_path / "link").symlink_to("made")
    assert Artifact.open(tmp_path / "link").kind == "data"


def test_class_names_that_do_not_count_the_classes(folders, text):
    rewrite(folders["task"], lambda m: m.update(labels=["a", "b"]))
    refusal(lambda: opened(folders["task"]), "names 2 classes, the spec has 3")
