import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.spec import build, part
from marrow.core.timm_backbone import TimmBackbone
from marrow.tasks.separate import Separate, SeparateMetric


def net(size: int = 32, width: int = 8) -> TimmBackbone:
    return TimmBackbone.create("resnet10t", img_size=size, channels=(width,) * 4, stem_width=8)


def test_each_code_is_its_backbones_and_can_be_taken_alone():
    task = Separate(net(), net(width=16)).eval()
    image = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        out = task({"image": image})
        assert out["common"].shape == (2, 8) and out["salient"].shape == (2, 16)
        torch.testing.assert_close(task.salient(image).pooled, out["salient"])
        torch.testing.assert_close(task.exported()(image)[1], out["salient"])
    assert part(build(task.spec), "salient", "test").dim == 16


def test_recall_is_that_of_each_code():
    """In the common code 0 and 1 are alike and share a label; in the salient one 0 and 2 are, and do not."""
    common = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    salient = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [0.1, 1.0]])
    metric = SeparateMetric()
    out = Separate.decode({"common": common, "salient": salient}, {})
    assert torch.equal(out["salient"], salient)
    metric.update(out, {"label": torch.tensor([0, 0, 1, 1])})
    assert [(row["metric"], row["value"]) for row in metric.compute()] == [
        ("common_recall_at_1", 1.0), ("salient_recall_at_1", 0.0)]  # fmt: skip


def test_both_see_the_same_picture():
    with pytest.raises(MarrowError, match=r"^separate.salient: the backbones see \(32, 32\) x 3 and \(64, 64\) x 3"):
        Separate(net(), net(64))
