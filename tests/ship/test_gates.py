"""Gates in exported graphs: what changes, that the answers stay, and where it must not change."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from marrow.core.runtime import open_session
from marrow.core.timm_backbone import TimmBackbone
from marrow.ship import graph
from marrow.ship.gates import plain_gates
from marrow.tasks.classify import Classify

pytest.importorskip("onnxruntime")


def kinds(model) -> Counter:
    return Counter(node.op_type for node in model.graph.node)


def answers(model, given: dict, file) -> list[np.ndarray]:
    file.write_bytes(model.SerializeToString())
    return open_session(file, 1).run(None, given)


def traced(module: nn.Module, *given: Tensor):
    batch = {0: torch.export.Dim("batch")}
    return torch.onnx.export(module.eval(), given, dynamo=True, opset_version=graph.OPSET, verbose=False,
                             dynamic_shapes=(batch,) * len(given)).model_proto  # fmt: skip


def test_the_gates_of_eca_are_plain_and_say_the_same(tmp_path):
    torch.manual_seed(0)
    net = TimmBackbone.create("eca_resnet18", img_size=64)
    task = Classify(net, classes=5).eval()
    found = graph.trace(task)
    assert kinds(found)["Expand"] == 0 and kinds(found)["ReduceMean"] == 0 and kinds(found)["GlobalAveragePool"] == 9
    image = torch.rand(3, 3, 64, 64)
    with torch.inference_mode():
        wanted = task({"image": image})["logits"].numpy()
    np.testing.assert_allclose(
        answers(found, {"image": image.numpy()}, tmp_path / "n")[0], wanted, rtol=1e-4, atol=1e-5
    )


class Outer(nn.Module):
    """Both sides are smaller than the product, so the one that is blown up must stay so."""

    def forward(self, x: Tensor) -> Tensor:
        row = x.mean(1, keepdim=True)
        return row.expand(-1, x.shape[1]).unsqueeze(2).expand(-1, -1, 4) * x.unsqueeze(2)


class Mean(nn.Module):
    """A mean whose reader sees its rank, one over the other axes, and one that is the answer itself."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x.mean((2, 3)) + 1, x.mean((1, 2)) * 2, x.mean((2, 3), keepdim=True)


@pytest.mark.parametrize(("module", "shape"), [(Outer(), (2, 3)), (Mean(), (2, 3, 4, 5))])
def test_what_would_change_the_answer_stays(module, shape, tmp_path):
    x = torch.rand(shape)
    before = kinds(whole := traced(module, x))
    found = plain_gates(whole)
    assert kinds(found) == before
    said = module(x)
    name = found.graph.input[0].name
    for got, wanted in zip(
        answers(found, {name: x.numpy()}, tmp_path / "n"), said if isinstance(said, tuple) else (said,)
    ):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
