"""Files of tensors and of trainings: damaged, lying about their sizes, or with code inside."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from marrow.core import checkpoint
from marrow.core.models import resolve

from .inputs import opened, put, refusal, replaced, rewrite, saved


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {
        kind: saved(kind, tmp_path_factory.mktemp("made") / kind) for kind in ("task", "backbone", "data", "report")
    }


@pytest.fixture
def folder(made, tmp_path):
    return lambda kind: shutil.copytree(made[kind], tmp_path / kind, dirs_exist_ok=True)


def with_header(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


FILES = {
    "empty": b"",
    "seven bytes": b"1234567",
    "a pickle": pickle.dumps({"a": 1}),
    "a header of 2**63": with_header(b"{}", length=2**63),
    "a header of 100 MB that is not there": with_header(b"{}", length=100 * 2**20),
    "a header beyond the file": with_header(b"{}", length=64),
    "a header that is no JSON": with_header(b"{" * 100),
    "a deep header": with_header(b"[" * 100_000),
    "a header with a list": with_header([]),
    "offsets beyond the end": with_header({"a": entry([2], 0, 8)}, b"\0" * 4),
    "offsets backwards": with_header({"a": entry([2], 8, 0)}, b"\0" * 8),
    "offsets that overlap": with_header({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12),
    "offsets with a gap": with_header({"a": entry([1], 4, 8)}, b"\0" * 8),
    "offsets that overflow": with_header({"a": entry([2**62, 8], 0, 2**63)}, b"\0" * 8),
    "negative offsets": with_header({"a": entry([1], -4, 0)}, b"\0" * 8),
    "a shape that lies": with_header({"a": entry([1000], 0, 8)}, b"\0" * 8),
    "a negative shape": with_header({"a": entry([-1], 0, 4)}, b"\0" * 4),
    "an unknown dtype": with_header({"a": entry([1], 0, 4, "X99")}, b"\0" * 4),
    "bytes too many": with_header({"a": entry([1], 0, 4)}, b"\0" * 400),
    "text": b"import os; os.mkdir('harmed')" * 10,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("kind", "file"), [("task", "weights.safetensors"), ("data", "table.safetensors"),
                                            ("report", "tensors.safetensors")])  # fmt: skip
def test_what_is_no_file_of_tensors(folder, kind, file, name):
    refusal(lambda: opened(replaced(folder(kind), file, FILES[name])), "is not a safetensors file")


class Harm:
    """Unpickling it makes a folder."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return (os.mkdir, (self.place,))


def zipped(file, inner):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", inner)
        archive.writestr("archive/version", "3\n")


def test_code_where_weights_should_be_does_not_run(folder, tmp_path):
    harmed = tmp_path / "harmed"
    code = pickle.dumps(Harm(harmed))
    torch.save(Harm(harmed), tmp_path / "saved.pth")
    zipped(tmp_path / "zipped.pth", code)
    (tmp_path / "plain.pth").write_bytes(code)
    for file in ("saved.pth", "zipped.pth", "plain.pth"):
        spoilt = replaced(folder("task"), "weights.safetensors", (tmp_path / file).read_bytes())
        refusal(partial(opened, spoilt), "is not a safetensors file")
        spec = {"backbone": "resnet10t", "weights": str(tmp_path / file)}
        refusal(partial(resolve, spec, {}, "student"), r"cannot be read as weights")
        refusal(partial(checkpoint.read, tmp_path / file), "the checkpoint is damaged")
    assert not harmed.exists()
    pickle.loads(code)
    assert harmed.exists()  # so it would have been


def test_names_shapes_and_types_that_disagree_with_the_spec(folder):
    place = folder("task")
    weights = load_file(place / "weights.safetensors")
    wrong = {
        "lacks": {k: v for k, v in weights.items() if k != "head.bias"},
        "has unknown": {**weights, "head.evil": torch.ones(1)},
        r"is \(4, 16\), the spec says \(3, 16\)": {**weights, "head.weight": torch.zeros(4, 16)},
        r"is \(3,\), the spec": {**weights, "head.weight": torch.zeros(3)},
        "is F64, the spec says F32": {**weights, "head.weight": weights["head.weight"].double()},
        "is I64, the spec says F32": {**weights, "head.weight": weights["head.weight"].long()},
    }
    for said, state in wrong.items():
        save_file(state, place / "other")
        refusal(lambda: opened(replaced(place, "weights.safetensors", (place / "other").read_bytes())), said)


def test_a_spec_larger_than_the_file_is_refused_before_it_is_built(folder):
    place = rewrite(folder("task"), lambda m: put(m, ("spec", "classes"), 2**20) or put(m, ("labels",), None))
    refusal(lambda: opened(place), r"'head.bias' is \(3,\), the spec says \(1048576,\)|'head.weight' is")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({}, "columns of a table have one length"),
        ({"image": entry([], 0, 4)}, "columns of a table have one length"),
        ({"image": entry([10**18, 0], 0, 0)}, "the rows of 'image' are empty"),
        ({"image": entry([0, 3, 8, 8], 0, 0), "label": entry([1], 0, 4)}, "columns of a table have one length"),
    ],
)
def test_tables_of_absurd_shapes(folder, columns, said):
    size = max((c["data_offsets"][1] for c in columns.values()), default=0)
    refusal(lambda: opened(replaced(folder("data"), "table.safetensors", with_header(columns, b"\0" * size))), said)


@pytest.mark.parametrize("rows", [b"{}", b"3", b"[1]", b"[[]]", b"[{]", b"[NaN]", b"[" * 10_000, b"\xff"])
def test_rows_that_are_none(folder, rows):
    refusal(lambda: opened(replaced(folder("report"), "rows.json", rows)), "rows.json")


def test_weights_that_claim_more_than_they_hold(tmp_path):
    """A view over one number may say that it is a classifier of a hundred million classes."""
    for name, value in {
        "expanded": {"fc.weight": torch.zeros(1).expand(10**8, 512)},
        "meta": {"fc.weight": torch.empty(10**8, 512, device="meta")},
        "sparse": {"fc.weight": torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), [1.0], (10**8, 512))},
    }.items():
        torch.save(value, tmp_path / f"{name}.pth")
        spec = {"backbone": "resnet18", "weights": str(tmp_path / f"{name}.pth")}
        refusal(partial(resolve, spec, {}, "student"), "claims|cannot be read")


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02", b"\0" * 1000, b"{}", pickle.dumps([1] * 10), b"\x80\x02c"]
)
def test_weight_files_and_checkpoints_of_garbage(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    spec = {"backbone": "resnet10t", "weights": str(tmp_path / "x.pth")}
    refusal(partial(resolve, spec, {}, "student"), "cannot be read as weights|holds something else")
    refusal(lambda: checkpoint.read(tmp_path / "x.pth"), "checkpoint")


@pytest.mark.parametrize("state", [{}, [], 3, {"facts": {}}, {"facts": 3, "step": 1}, {"step": "1"}, {"model": {}}])
def test_checkpoints_from_elsewhere(tmp_path, state):
    torch.save(state, tmp_path / "x.pt")
    refusal(lambda: checkpoint.read(tmp_path / "x.pt"), "no checkpoint of a training")


def test_checkpoints_cut_off_or_altered_anywhere(tmp_path):
    torch.save({"facts": {}, "method": {"w": torch.ones(100)}}, tmp_path / "x.pt")
    whole = (tmp_path / "x.pt").read_bytes()
    for end in range(0, len(whole), len(whole) // 20):
        (tmp_path / "x.pt").write_bytes(whole[:end])
        refusal(lambda: checkpoint.read(tmp_path / "x.pt"), "checkpoint")
