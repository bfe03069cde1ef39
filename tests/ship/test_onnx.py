"""The exported file is the model: same outputs at any batch size, self-contained, and silent about this machine."""

import json
from pathlib import Path

import onnx
import pytest
import torch

import marrow
from marrow.core.contracts import Input
from marrow.core.errors import MarrowError, ParityError
from marrow.core.runtime import open_session
from marrow.ship.onnx import Onnx
from marrow.tasks.classify import Classify


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_outputs_equal_the_task_at_any_batch_size(name, classifier, engine, streams, tmp_path, capfd):
    task = classifier(name)
    meta = Onnx(parity_images=16).export({"model": task}, streams, engine, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [f.name for f in tmp_path.iterdir()] == ["model.onnx"]
    assert meta["parity"]["n"] == 16 and meta["parity"]["max_abs"] <= 1e-4 * max(1, meta["parity"]["largest"])
    session = open_session(tmp_path / "model.onnx", threads=1)
    for count in (1, 5):
        images = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        (logits,) = session.run(meta["outputs"], {meta["inputs"][0]: images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), task({"image": images})["logits"], rtol=1e-4, atol=1e-4)


def test_the_file_says_how_to_use_it_and_not_where_it_was_made(classifier, engine, streams, tmp_path):
    task = classifier("resnet10t").train()
    before = {k: v.clone() for k, v in task.state_dict().items()}
    meta = Onnx(licence="apache-2.0", parity_images=4).export({"model": task}, streams, engine, tmp_path)
    assert task.training and all(torch.equal(v, before[k]) for k, v in task.state_dict().items())
    noted = {p.key: json.loads(p.value) for p in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert noted["marrow.labels"] == task.labels
    assert noted["marrow.task"] == meta["task"] == "classify"
    assert noted["marrow.licence"] == "apache-2.0"
    assert Input.from_json(noted["marrow.input"]) == Input.from_json(meta["input"]) == task.input
    content = (tmp_path / "model.onnx").read_bytes()
    for trace in (str(Path(torch.__file__).parent), str(Path(marrow.__file__).parent), "stack_trace", "def forward"):
        assert trace.encode() not in content


class Shifted(Classify):
    """A task whose export is not what it computes."""

    def exported(self):
        module = super().exported()
        module.register_forward_hook(lambda module, args, out: (out[0] + 0.25,))
        return module


def test_a_file_that_disagrees_is_an_error_with_the_figures(classifier, engine, streams, tmp_path):
    task = Shifted(classifier("resnet10t").backbone, classes=10)
    with pytest.raises(ParityError, match=r"disagrees with the model: max abs diff 0\.25, allowed \d.*4 real images"):
        Onnx(parity_images=4).export({"model": task}, streams, engine, tmp_path)


def test_a_backbone_alone_is_refused(classifier, engine, streams, tmp_path):
    with pytest.raises(MarrowError, match="a task is exported, this is a TimmBackbone"):
        Onnx().export({"model": classifier("resnet10t").backbone}, streams, engine, tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_check_takes_images_of_all_classes(digits):
    from marrow.data.select import by_index
    from marrow.ship.parity import spread

    source = digits(0.0, 1.0)
    by_class = by_index(source, sorted(range(len(source)), key=source.label), "data")
    chosen = spread(by_class, 60)
    assert {chosen.label(i) for i in range(60)} == set(range(10))
    others = spread(by_class, 10_000, without=chosen)
    assert not {chosen.fraction(i) for i in range(60)} & {others.fraction(i) for i in range(len(others))}
    assert len(source) - 60 - 5 <= len(others) <= len(source) - 60  # copies of chosen ones are left out as well
