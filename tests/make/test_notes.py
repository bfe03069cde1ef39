"""`plan.json` is a hint: what is not as it was written is measured again."""

import json
import math

import pytest
from hypothesis import given, settings

from marrow.make import notes
from marrow.make.wishes import Wishes

from ..hostile.test_properties import ALWAYS, changed

WISHES = Wishes(data="photos", img_size=32)


def noted():
    return {
        "key": notes.key(WISHES), "student": {"spec": {"backbone": "resnet10t"}, "why": "it is small"}, "skip": ["prune"],
        "steps": {"teacher": 20, "student": 40}, "choices": [{"what": "batch", "value": 16, "reason": "few images"}],
        "estimate": {"minutes": {"teacher": [0.1, 0.2], "all": [1, 2.5]}, "memory": 10, "disk": 20, "training": {}},
        "minutes": {"teacher": 0.15}, "early": ["teacher stopped early"],
    }  # fmt: skip


def test_what_was_written_is_read_by_the_same_call_alone(tmp_path):
    notes.write(tmp_path, noted())
    assert notes.read(tmp_path, WISHES) == noted()
    assert notes.read(tmp_path, Wishes(data="photos", img_size=64)) == {} == notes.read(tmp_path / "other", WISHES)
    notes.write(tmp_path, {k: v for k, v in noted().items() if k not in ("minutes", "early")} | {"student": None})
    assert notes.read(tmp_path, WISHES)["student"] is None


@pytest.mark.parametrize("change", [
    {"student": "resnet18"}, {"student": {"spec": []}}, {"skip": "prune"}, {"skip": [1]}, {"steps": [20]},
    {"steps": {"teacher": 0}}, {"steps": {"teacher": "20"}}, {"steps": {"teacher": True}}, {"choices": {}},
    {"choices": [{"what": 1}]}, {"estimate": None}, {"estimate": {"minutes": {}}}, {"minutes": [1]},
    {"minutes": {"teacher": "1"}}, {"early": "soon"}, {"other": 1},
])  # fmt: skip
def test_another_form_counts_as_none(tmp_path, change):
    notes.write(tmp_path, noted() | change)
    assert notes.read(tmp_path, WISHES) == {}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"key": NaN}', b"[" * 100_000, b" " * 2**21])
def test_what_is_no_note_counts_as_none(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    assert notes.read(tmp_path, WISHES) == {}


@settings(max_examples=200, **ALWAYS)
@given(changed(noted()))
def test_with_anything_changed_a_run_can_go_by_it_or_does_not(tmp_path, value):
    (tmp_path / "plan.json").write_text(json.dumps(value))
    if found := notes.read(tmp_path, WISHES):
        taken = notes.Taken(tmp_path, found)
        assert math.isfinite(sum(taken.minutes.values())) and all(isinstance(line, str) for line in taken.early)
        assert all(math.isfinite(low + high) for low, high in found["estimate"]["minutes"].values())
