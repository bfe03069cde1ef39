"""Run folders that several files copy from, and places that are small or read-only."""

import os
import shutil
import subprocess

import pytest

from marrow.core.errors import Interrupted
from marrow.run import run

from .pieces import meanwhile, reached, recipe, stop


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of a run that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(recipe(), out, quiet=True)
    return out


@pytest.fixture(scope="session")
def left(tmp_path_factory):
    """The folder of a run that was stopped in its second training."""
    out = tmp_path_factory.mktemp("left") / "run"
    with meanwhile(lambda: reached(out / "logs" / "second.csv") >= 10, stop), pytest.raises(Interrupted):
        run(recipe(), out, quiet=True)
    assert (out / "checkpoints" / "second.pt").is_file()
    return out


@pytest.fixture
def stopped(left, tmp_path):
    """A copy of it."""
    return shutil.copytree(left, tmp_path / "copied run")


def mounted(folder, options):
    folder.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a small file system can only be mounted by root")
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """Of 400 kB."""
    yield mounted(tmp_path / "disk", "size=400k")
    subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)


@pytest.fixture
def read_only(tmp_path):
    yield mounted(tmp_path / "read-only", "ro")
    subprocess.run(["umount", "--lazy", tmp_path / "read-only"], check=True)
