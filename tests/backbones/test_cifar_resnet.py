import pytest
import timm
import torch
from safetensors.torch import save_file

from marrow.backbones.cifar_resnet import CifarResNet
from marrow.core.engine import Engine
from marrow.core.timm_backbone import TimmBackbone
from marrow.data import open_source
from marrow.tasks.classify import Classify

X = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> CifarResNet:
    torch.manual_seed(0)
    return CifarResNet(depth=2).eval()


@pytest.mark.parametrize("depth, params", [(20, 269722), (32, 464154), (44, 658586), (56, 853018)])
def test_sizes_are_the_papers(depth, params):
    with torch.device("meta"):
        model = timm.create_model(f"cifar_resnet{depth}")
    assert sum(p.numel() for p in model.parameters()) == params
    assert sum(isinstance(m, (torch.nn.Conv2d, torch.nn.Linear)) for m in model.modules()) == depth


def test_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides(net):
    block = net.layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 16, 6, 6)
    out = block(x)
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_intermediates(net):
    final, maps = net.forward_intermediates(X)
    torch.testing.assert_close(final, net.forward_features(X), rtol=0, atol=0)
    for info, m in zip(net.feature_info, maps):
        assert m.shape == (2, info["num_chs"], 24 // info["reduction"], 40 // info["reduction"])
    only = net.forward_intermediates(X, indices=[0, -2], stop_early=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(only, maps[:2], strict=True))
    last = net.forward_intermediates(X, indices=1, intermediates_only=True)
    assert len(last) == 1 and torch.equal(last[0], maps[2])
    with pytest.raises(ValueError, match="NCHW"):
        net.forward_intermediates(X, output_fmt="NLC")


def test_pruned_net_gives_the_same_intermediates(net):
    wanted = net.forward_intermediates(X, indices=[1], intermediates_only=True)[0]
    assert net.prune_intermediate_layers([1]) == [1]
    assert not list(net.layer3.parameters()) and net.num_features == 32
    assert torch.equal(net.forward_intermediates(X, indices=[1], intermediates_only=True)[0], wanted)
    assert net(X).shape == (2, 32, 12, 20)


def test_features_only_gives_the_intermediates():
    torch.manual_seed(0)
    whole = timm.create_model("cifar_resnet20").eval()
    getter = timm.create_model("cifar_resnet20", features_only=True, out_indices=(0, 2)).eval()
    getter.model.load_state_dict(whole.state_dict(), strict=False)
    wanted = whole.forward_intermediates(X, indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(getter(X), wanted, strict=True))
    assert getter.feature_info.channels() == [16, 64] and getter.feature_info.reduction() == [1, 4]


def test_heads(net):
    pooled = net.forward_head(net.forward_features(X), pre_logits=True)
    assert pooled.shape == (2, net.head_hidden_size)
    torch.testing.assert_close(net(X), net.get_classifier()(pooled))
    net.reset_classifier(7)
    assert net(X).shape == (2, 7)
    net.reset_classifier(0)
    assert torch.equal(net(X), pooled)
    net.reset_classifier(0, "")
    assert torch.equal(net(X), net.forward_features(X))
    assert CifarResNet(depth=1, in_chans=1, num_classes=0)(X[:, :1]).shape == (2, 64)


def test_dropout_acts_on_the_pooled_features_in_training_only(net):
    net.drop_rate = 0.5
    assert torch.equal(net(X), net(X))
    net.train()
    zeros = (net.forward_head(torch.ones(64, 64, 2, 2), pre_logits=True) == 0).float().mean()
    assert 0.4 < zeros < 0.6


def test_checkpointing_gives_the_same_gradients(net):
    net.train()
    wanted = torch.autograd.grad(net(X).square().sum(), net.conv1.weight)[0]
    net.set_grad_checkpointing()
    torch.testing.assert_close(torch.autograd.grad(net(X).square().sum(), net.conv1.weight)[0], wanted)


def test_half_precision_and_export_agree(net):
    wanted = net(X)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(X).float(), wanted, rtol=0.1, atol=0.1 * wanted.abs().max().item())
    exported = torch.export.export(net, (X,)).module()
    torch.testing.assert_close(exported(X), wanted)


def test_groups_name_every_parameter_once(net):
    from timm.models import group_parameters

    for coarse, count in ((True, 5), (False, 8)):  # stem, blocks or stages, and the head
        groups = group_parameters(net, net.group_matcher(coarse))
        assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in net.named_parameters())
        assert len(groups) == count


def test_weights_without_batch_counters_load(tmp_path):
    torch.manual_seed(1)
    net = timm.create_model("cifar_resnet20")
    state = {k: v for k, v in net.state_dict().items() if not k.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "weights.safetensors")
    loaded = TimmBackbone.create("cifar_resnet20", weights=str(tmp_path / "weights.safetensors"))
    assert torch.equal(loaded.net.layer3[2].conv2.weight, net.layer3[2].conv2.weight)
    assert torch.equal(loaded.classifier[0], net.linear.weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    "images, weights, wanted",
    [
        ("cifar10-lossless", "cifar10-weights", {20: 0.915, 32: 0.928, 44: 0.933, 56: 0.926}),
        ("cifar10", "cifar10-weights-jpeg", {20: 0.8810, 32: 0.8856, 44: 0.8900, 56: 0.8956}),
    ],
)
def test_published_weights_reach_their_accuracy(data, images, weights, wanted):
    source = open_source({"images": str(data / images), "split": "test"})
    for depth, top1 in wanted.items():
        file = data / weights / f"resnet{depth}.safetensors"
        task = Classify(TimmBackbone.create(f"cifar_resnet{depth}", weights=str(file)), classes=10)
        row = Engine(device="cpu").evaluate(task, source)[0]
        assert row["metric"] == "top1" and row["n"] == len(source)
        assert row["value"] == pytest.approx(top1, abs=2 / len(source))
