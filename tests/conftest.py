"""Settings for every test: one thread each, and where golden cases and data sets are found."""

import os
from pathlib import Path

# Before anything imports torch: two test processes with two threads each only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest

ROOT = Path(__file__).parent.parent


def beside(variable: str, name: str) -> Path:
    """The folder that the variable names, else `shared/<name>` beside the project."""
    folder = Path(os.environ.get(variable) or ROOT.parent / "shared" / name)
    if not folder.is_dir():
        pytest.skip(f"no {name} folder; set {variable}")
    return folder


@pytest.fixture(scope="session")
def golden() -> Path:
    """Input/output pairs of the published implementations, one folder a system."""
    return beside("MARROW_GOLDEN", "golden")


@pytest.fixture(scope="session")
def data() -> Path:
    """Real data sets, one folder each."""
    return beside("MARROW_DATA", "data")
