"""Parameters, MACs and bytes against figures worked out by hand."""

import pytest
import torch

import marrow.backbones  # noqa: F401  registers ours with timm
from marrow.core.cost import Cost, cost
from marrow.core.models import backbone, resolve, task


def on_meta(name, **arguments):
    return resolve({"backbone": name, **arguments}, {}, "test", meta=True)


def test_a_resnet_at_224():
    # He et al. 2016 count 1.8e9 for ResNet-18; without its classifier (512 x 1000) that is 1,813,561,344.
    assert cost(on_meta("resnet18")) == Cost(11_176_512, 1_813_561_344, 44_744_608)


def test_attention_is_counted():
    tokens, width, depth, patches = 197, 192, 12, 196
    linear = depth * tokens * 12 * width * width  # qkv 3, projection 1, mlp 4 + 4
    attention = depth * 2 * tokens * tokens * width
    embedding = patches * 3 * 16 * 16 * width
    assert cost(on_meta("vit_tiny_patch16_224")).macs == linear + attention + embedding


def test_a_task_adds_its_head():
    net = backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    whole = task("classify", backbone=net, classes=7)
    alone, together = cost(net), cost(whole)
    assert together.params - alone.params == 32 * 7 + 7
    assert together.macs - alone.macs == 32 * 7
    assert together.bytes - alone.bytes == 4 * (32 * 7 + 7)


def test_macs_grow_with_the_picture():
    small, large = (cost(on_meta("resnet18", img_size=size)).macs for size in (32, 64))
    assert large == pytest.approx(4 * small, rel=1e-3)


def test_counting_changes_nothing():
    net = backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8).train()
    net.net.bn1.eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    cost(net)
    assert net.training and not net.net.bn1.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert next(net.parameters()).device.type == "cpu"


def test_bytes_are_those_of_the_saved_weights(tmp_path):
    from marrow.core.artifact import save

    net = backbone("resnet10t", img_size=32, channels=(8, 16, 24, 32), stem_width=8)
    file = save(tmp_path / "net", net).path / "weights.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little") + 8
    assert file.stat().st_size - header == cost(net).bytes
