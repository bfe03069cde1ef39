"""Frozen, EMA and taps: what a teacher may not do, what an average is, what a tap reads."""

import pytest
import torch
from torch import nn

from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.wrappers import EMA, Frozen, taps


class Holder(nn.Module):
    def __init__(self, teacher, batch_stats=False):
        super().__init__()
        self.student, self.teacher = nn.Linear(4, 2), Frozen(teacher, batch_stats=batch_stats)


def test_a_frozen_teacher_is_never_saved_optimised_or_put_into_training():
    holder = Holder(nn.Sequential(nn.Linear(4, 2), nn.Dropout(0.5))).train()
    assert list(holder.state_dict()) == ["student.weight", "student.bias"]
    assert [n for n, _ in holder.named_parameters()] == ["student.weight", "student.bias"]
    assert not any(m.training for m in holder.teacher.module.modules())
    assert not any(p.requires_grad for p in holder.teacher.module.parameters())


def test_a_frozen_teacher_moves_with_its_method():
    holder = Holder(nn.Linear(4, 2)).to(torch.float64)
    assert holder.teacher.module.weight.dtype == torch.float64


def test_gradients_flow_through_a_frozen_teacher():
    x = torch.ones(1, 4, requires_grad=True)
    Frozen(nn.Linear(4, 2))(x).sum().backward()
    assert x.grad.abs().sum() > 0


def test_batch_statistics_are_used_and_the_buffers_stay():
    norm = nn.BatchNorm1d(4)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    out = Frozen(norm, batch_stats=True)(torch.arange(32.0).view(8, 4))
    assert torch.allclose(out.mean(0), torch.zeros(4), atol=1e-6)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


def test_an_average_is_the_formula_and_takes_buffers_over():
    source = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    average = EMA(source)
    start = source[0].weight.detach().clone()
    with torch.no_grad():
        source[0].weight += 1
        source[1].running_mean += 5
    average.update(source, 0.9)
    assert torch.allclose(average.module[0].weight, 0.9 * start + 0.1 * (start + 1))
    assert torch.equal(average.module[1].running_mean, source[1].running_mean)


def test_taps_read_what_the_layer_gave_and_go_away():
    net = TimmBackbone.create("resnet10t", img_size=32, channels=(8, 8, 16, 16), stem_width=8).eval()
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad(), taps(net, "layer4") as seen:
        pooled = net(x).pooled
    assert torch.allclose(seen["layer4"].mean((2, 3)), pooled, atol=1e-6)
    assert not net.net.layer4._forward_hooks


def test_an_unknown_tap_is_named_with_near_ones():
    net = TimmBackbone.create("resnet10t", img_size=32, channels=(8, 8, 16, 16), stem_width=8)
    with pytest.raises(MarrowError, match="taps: no module 'layer9' in ResNet; did you mean 'layer"):
        taps(net, "layer9")
