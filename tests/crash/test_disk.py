"""A full disk, a limit on files, a read-only place: one sentence, and what is finished stays."""

import os
import re
import resource
import time

import pytest
import torch

import marrow
from marrow.core.artifact import Artifact
from marrow.core.recipe import Recipe
from marrow.run import run

from ..make.pieces import photos
from .pieces import NARROW, command, printed_command, recipe, taught, written


def fill(disk, leave):
    space = os.statvfs(disk)
    (disk / "filler").write_bytes(b"x" * max(0, space.f_bavail * space.f_frsize - leave))


@pytest.mark.parametrize("leave", [0, 20_000, 60_000])
def test_a_full_disk_keeps_finished_stages_and_resume_goes_on_with_space(leave, small_disk, whole, tmp_path, capsys):
    """Room for nothing, for the log, and for one half of a checkpoint."""
    out = small_disk / "run"
    with pytest.raises(OSError, match="No space left on device"):
        run(recipe(), out, quiet=True, after=lambda stage, artifact, history: fill(small_disk, leave))
    assert Artifact.open(out / "first").meta["metrics"] == []
    words = ["run", written(tmp_path / "r.yaml"), "--out", out]
    code, err = command([*words, "--resume"], capsys)
    assert code == 2, err
    assert "error: No space left on device" in err and "; finished stages are kept, go on with: marrow run" in err
    (small_disk / "filler").unlink()
    assert command(printed_command(err), capsys)[0] == 0
    assert (out / "second" / "weights.safetensors").read_bytes() == (
        whole / "second" / "weights.safetensors"
    ).read_bytes()
    assert sorted(p.name for p in out.iterdir()) == ["first", "logs", "recipe.yaml", "second"]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A classifier of digits that is sure of what it says."""
    torch.manual_seed(0)
    net = {k: v for k, v in NARROW.items() if k != "backbone"}
    task = marrow.task("classify", backbone=marrow.backbone(NARROW["backbone"], **net), classes=10)
    task.head.weight.data.mul_(100.0)
    return marrow.save(tmp_path_factory.mktemp("teacher") / "net", task).path


def test_a_full_cache_folder_is_one_sentence_and_with_space_the_run_goes_on(teacher, small_disk, tmp_path, capsys,
                                                                          monkeypatch):  # fmt: skip
    monkeypatch.setenv("MARROW_CACHE", str(small_disk / "cache"))
    file = tmp_path / "r.yaml"
    file.write_text(Recipe.from_dict(taught(teacher)).to_yaml(), encoding="utf-8")
    words = ["run", file, "--out", tmp_path / "run"]
    fill(small_disk, 40_000)
    code, err = command(words, capsys)
    assert code == 2, err
    told = r"the teacher's outputs for 2 views an image take 0\.1 MB more, and 0\.0 MB are free. Lower cached_views, or set"
    assert re.search(rf"error: \S+/cache/\S+: {told} MARROW_CACHE to another folder", err), err
    assert not list(small_disk.rglob("*.rows"))
    (small_disk / "filler").unlink()
    code, err = command([*words, "--resume"], capsys)
    assert code == 0, err
    assert list(small_disk.rglob("*.rows"))


def test_a_limit_on_the_size_of_files_is_no_bug(whole, tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, hard))
    try:
        code, err = command(["run", written(tmp_path / "r.yaml"), "--out", tmp_path / "run"], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and "error: File too large: " in err
    assert command(printed_command(err), capsys)[0] == 0
    assert (tmp_path / "run" / "second" / "weights.safetensors").read_bytes() == (
        whole / "second" / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("verb", ["run", "make"])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(verb, read_only, tmp_path, capsys):
    what = (
        [written(tmp_path / "r.yaml")] if verb == "run" else ["--data", photos(tmp_path / "photos"), "--img-size", 32]
    )
    began = time.process_time()
    code, err = command([verb, *what, "--out", read_only / "a" / "run"], capsys)
    assert code == 2 and err.strip() == f"error: --out: nothing can be written into {read_only}. Choose another folder."
    assert time.process_time() - began < 20


def test_a_file_where_the_folder_should_be(tmp_path, capsys):
    (tmp_path / "run").write_text("")
    code, err = command(["run", written(tmp_path / "r.yaml"), "--out", tmp_path / "run"], capsys)
    assert code == 2 and "run is a file; a folder is needed" in err
