"""Parameters, MACs and bytes against figures worked out by hand."""

from copy import deepcopy

import pytest
import torch

import marrow.backbones  # noqa: F401  registers ours with timm
from marrow.core.cost import Cost, cost, layers, paired
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


SMALL = {
    "resnet10t": {"channels": (8, 16, 24, 32), "stem_width": 8},
    "vit_tiny_patch16_224": {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3},
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("whole", [False, True])
def test_layers_add_up_to_the_cost(name, whole):
    net = backbone(name, img_size=32, **SMALL[name])
    model = task("classify", backbone=net, classes=7) if whole else net
    found = layers(model)
    assert (sum(x.params for x in found), sum(x.macs for x in found)) == cost(model)[:2]
    assert len({x.name for x in found}) == len(found)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_layers_are_those_of_the_net_by_hand():
    net = backbone("vit_tiny_patch16_224", img_size=32, **SMALL["vit_tiny_patch16_224"])
    found = {x.name: x for x in layers(task("classify", backbone=net, classes=7))}
    tokens, width = 17, 48
    assert found["blocks.0.attn.qkv"][1:] == ("Linear", 3 * width * width + 3 * width, tokens * 3 * width * width)
    assert found["blocks.1.attn"][1:] == ("Attention", 0, 2 * tokens * tokens * width)
    assert found["(root)"].params == tokens * width + width  # position embeddings and the class token
    assert found["head"] == ("head", "Linear", 7 * width + 7, 7 * width)


def test_shared_weights_count_once():
    net = backbone("resnet10t", img_size=32, **SMALL["resnet10t"])
    net.net.layer2[0].bn2 = net.net.layer2[0].bn1
    net.net.layer1[0].bn2.weight = net.net.layer1[0].bn1.weight
    found = layers(net)
    assert sum(x.params for x in found) == cost(net).params


def test_a_pruned_net_lines_up_with_what_it_was():
    pytest.importorskip("torch_pruning")
    from marrow.shrink.prune import MagnitudePrune

    net = backbone("resnet10t", img_size=32, **SMALL["resnet10t"])
    small = MagnitudePrune(ratio=0.5, round_to=4).plan({"model": net}, None, None).edit.apply([deepcopy(net)])
    rows = paired(net, small)
    assert [row["name"] for row in rows] == [x.name for x in layers(net)] == [x.name for x in layers(small)]
    assert sum(row["params"][1] for row in rows) == cost(small).params
    assert sum(row["macs"][1] for row in rows) == cost(small).macs
    assert all(0 < row["params"][1] <= row["params"][0] for row in rows)
    assert sum(row["macs"][1] for row in rows) < sum(row["macs"][0] for row in rows)


def test_a_layer_that_one_side_lacks_is_none_there():
    net = backbone("vit_tiny_patch16_224", img_size=32, **SMALL["vit_tiny_patch16_224"])
    other = deepcopy(net)
    other.net.blocks[0].norm1 = torch.nn.Identity()
    other.net.blocks[0].mlp.norm = torch.nn.LayerNorm(4 * 48)
    rows = paired(net, other)
    names = [row["name"] for row in rows]
    lost, won = rows[names.index("blocks.0.norm1")], names.index("blocks.0.mlp.norm")
    assert (lost["kind"], lost["params"], lost["macs"]) == ("LayerNorm", [96, None], [0, None])
    assert rows[won]["params"] == [None, 8 * 48] and names[won - 1] == "blocks.0.mlp.fc1"
