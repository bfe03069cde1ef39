"""What a long data set costs: bytes an example, and time to open it."""

import gc
import tracemalloc

import pytest
import torch

from marrow.core.loader import Data, batches, train_batches
from marrow.core.settings import Settings
from marrow.data import open_source
from marrow.data.views import Augment
from marrow.data.write_shards import write_shards

LENGTH = 20_000
BOUND = 130  # bytes an example, of which its name is 30; a Python object an example would add 60 or more


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The same picture 20,000 times under names of 28 letters: a folder, a parquet file, shards with an index."""
    import io

    from PIL import Image
    from pyarrow import array, parquet, table

    root, file = tmp_path_factory.mktemp("long"), io.BytesIO()
    Image.new("RGB", (16, 16), (9, 90, 200)).save(file, "JPEG")
    names = [f"class{i % 10:03d}/image_{i:08d}.jpg" for i in range(LENGTH)]
    for name in names:
        (root / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "folder" / name).write_bytes(file.getvalue())
    images = array([{"bytes": file.getvalue(), "path": name} for name in names])
    labels = [i % 10 for i in range(LENGTH)]
    parquet.write_table(table({"image": images, "label": labels}), root / "p.parquet", row_group_size=1000)
    write_shards(str(root / "folder"), root / "shards")
    return {"folder": root / "folder", "parquet": root / "p.parquet", "shards": root / "shards"}


@pytest.mark.parametrize("kind", ["folder", "parquet", "shards"])
def test_bytes_an_example(kind, places):
    import pyarrow

    open_source({"images": str(places[kind])})  # what is imported and kept for all
    gc.collect()
    tracemalloc.start()
    before = pyarrow.total_allocated_bytes()  # which tracemalloc does not see
    source = open_source({"images": str(places[kind])})
    arrow = pyarrow.total_allocated_bytes() - before
    held, peak = (size / LENGTH for size in tracemalloc.get_traced_memory())
    training = train_batches(Data({"train": source}), ("train",), Augment((16, 16)), Settings(steps=1, batch=32))
    assert next(training)["label"].shape == (32,)
    passing = batches(source, Augment((16, 16)), 32)
    assert next(passing)["image"].dtype == torch.uint8
    reading = tracemalloc.get_traced_memory()[0] / LENGTH
    tracemalloc.stop()
    print(
        f"{kind}: {held:.0f} bytes held, {arrow / LENGTH:.0f} by arrow, {peak:.0f} at most, {reading:.0f} while reading"
    )
    assert 0 < held + arrow / LENGTH < BOUND and peak < 4 * BOUND and reading < BOUND
