"""A full disk, a limit on files, a read-only place: one sentence, and what is finished stays."""

import os
import resource
import time

import pytest

from marrow.core.artifact import Artifact
from marrow.run import run

from ..make.pieces import photos
from .pieces import command, printed_command, recipe, written


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
