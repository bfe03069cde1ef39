"""A Runner answers like its task, from a file and its facts alone."""

import shutil

import pytest
import torch

from marrow.core.artifact import Artifact, save
from marrow.core.errors import MarrowError
from marrow.core.runtime import Runner
from marrow.ship.onnx import Onnx


@pytest.fixture(scope="module")
def made(classifier, engine, streams, tmp_path_factory) -> tuple:
    """A task, and the runtime artifact of its export."""
    task, facts = classifier("resnet10t"), {}
    folder = tmp_path_factory.mktemp("made") / "fp32"

    def fill(place):
        facts.update(Onnx(parity_images=8).export({"model": task}, streams, engine, place))

    return task, save(folder, facts, labels=task.labels, parents=["a" * 64], fill=fill)


def test_same_keys_and_values_for_uint8_and_float(made):
    task, artifact = made
    runner = artifact.load()
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wanted = task({"image": images})
    for given in (images, images / 255.0, images[:1]):
        out = runner({"image": given})
        assert list(out) == list(wanted)
        torch.testing.assert_close(out["logits"], wanted["logits"][: len(given)], rtol=1e-4, atol=1e-4)


def test_a_channels_last_batch_is_the_same_batch(made):
    runner = made[1].load()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    turned = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(runner({"image": images})["logits"], runner({"image": turned})["logits"])


def test_it_is_evaluated_like_its_task(made, engine, digits):
    task, artifact = made
    runner = artifact.load()
    assert runner.labels == task.labels and runner.input == task.input
    assert (runner.task, runner.runtime, runner.precision) == ("classify", "onnxruntime", "fp32")
    rows = engine.evaluate(runner, digits(0.8, 0.9))
    assert rows == engine.evaluate(task, digits(0.8, 0.9))
    assert rows[0]["value"] > 0.9


def test_it_opens_its_file_at_the_first_call(made, tmp_path):
    artifact = made[1]
    runner = Runner(tmp_path, artifact.meta, threads=1)
    batch = {"image": torch.zeros(1, 3, 32, 32)}
    with pytest.raises(MarrowError, match="model.onnx: the exported file is missing"):
        runner(batch)
    shutil.copy(artifact.path / "model.onnx", tmp_path)
    assert runner(batch)["logits"].shape == (1, 10)


def test_what_does_not_fit_is_said_in_words(made):
    runner = made[1].load()
    with pytest.raises(MarrowError, match="the batch has no 'image'; it has picture"):
        runner({"picture": torch.zeros(1, 3, 32, 32)})
    with pytest.raises(MarrowError, match=r"'image' has shape \(1, 3, 64, 64\); the model takes \(B, 3, 32, 32\)"):
        runner({"image": torch.zeros(1, 3, 64, 64)})


def test_a_file_that_is_no_graph(made, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(MarrowError, match="this is no ONNX file"):
        Runner(tmp_path, made[1].meta)({"image": torch.zeros(1, 3, 32, 32)})


def test_facts_that_are_missing(made, tmp_path):
    meta = {**made[1].meta, "runtime": {k: v for k, v in made[1].meta["runtime"].items() if k != "outputs"}}
    with pytest.raises(MarrowError, match="artifact.json does not say the 'outputs' of the file"):
        Runner(tmp_path, meta)


def test_an_altered_file_is_noticed(made, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(made[1].path, folder)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(MarrowError, match="model.onnx was altered"):
        Artifact.open(folder)
