"""Small real pictures, made anew for each test."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from .. import messy


@pytest.fixture
def picture():
    """A picture with smooth colours and some noise; other seeds, other pictures."""
    return messy.picture


@pytest.fixture
def encoded(picture):
    """The bytes of a picture in a file format."""

    def make(seed: int = 0, form: str = "PNG", mode: str = "RGB", **options) -> bytes:
        file = io.BytesIO()
        picture(seed).convert(mode).save(file, form, **options)
        return file.getvalue()

    return make


@pytest.fixture
def photos(tmp_path, picture):
    """A folder with 3 classes of 4 pictures."""
    root = tmp_path / "photos"
    for c, name in enumerate(("cat", "dog", "owl")):
        (root / name).mkdir(parents=True)
        for i in range(4):
            picture(10 * c + i).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def shard(encoded):
    """Writes a tar file of (name, bytes); returns its path."""

    def write(path: Path, members: list[tuple[str, bytes]]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, content in members:
                header = tarfile.TarInfo(name)
                header.size = len(content)
                tar.addfile(header, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def mnist(tmp_path):
    """A small MNIST in its original files."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 6)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels.tobytes())
    return tmp_path
