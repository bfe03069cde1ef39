import numpy as np
import pytest
import timm
import torch
from timm.layers import EcaModule
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from timm.models.resnet import BasicBlock
from torch import nn

import marrow.backbones  # noqa: F401  registers ours with timm
from marrow.backbones.ecanet import ECAMobileNetV2, ECAResNet, checkpoint_filter_fn, gate, kernel_size
from marrow.core.errors import MarrowError

X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
PARAMETERS = {  # name -> (all, those of the gates)
    "eca_resnet18": (11689556, 44), "eca_resnet34": (21797744, 72), "eca_resnet50": (25557112, 80),
    "eca_resnet101": (44549317, 157), "eca_resnet152": (60193042, 234), "eca_mobilenetv2_100": (3504903, 31),
}  # fmt: skip


@pytest.fixture(params=[ECAResNet, ECAMobileNetV2])
def net(request) -> nn.Module:
    torch.manual_seed(0)
    return request.param(**request.param.tiny).eval()


def gates(net: nn.Module) -> list[EcaModule]:
    return [m for m in net.modules() if isinstance(m, EcaModule)]


def test_golden_gate(golden):
    case = {k: torch.from_numpy(v) for k, v in np.load(golden / "eca" / "eca_c16_k3.npz").items()}
    module, x = gate(3, "test"), case["x"].requires_grad_()
    module.load_state_dict({"conv.weight": case["w:conv.weight"]})
    y = module(x)
    y.backward(case["grad_out"])
    torch.testing.assert_close(y, case["y"], rtol=0, atol=1e-5)
    torch.testing.assert_close(x.grad, case["grad_x"], rtol=0, atol=1e-5)
    torch.testing.assert_close(module.conv.weight.grad, case["grad_w"], rtol=0, atol=1e-5)


def test_golden_kernel_sizes(golden):
    case = np.load(golden / "eca" / "kernel_sizes.npz")
    ours = [kernel_size(int(c)) for c in case["channels"]]
    assert ours == case["kernel"].tolist()
    assert [max(k, 3) for k in ours] == case["kernel_min3"].tolist()


@pytest.mark.parametrize(("name", "wanted"), PARAMETERS.items())
def test_sizes_are_the_papers(name, wanted):
    with torch.device("meta"):
        net = timm.create_model(name)
    of_gates = sum(p.numel() for each in gates(net) for p in each.parameters())
    assert (sum(p.numel() for p in net.parameters()), of_gates) == wanted


def test_the_rule_gives_86_weights_to_depth_50():
    with torch.device("meta"):
        net = timm.create_model("eca_resnet50", kernel_sizes="adaptive")
    assert [layer[0].se.conv.kernel_size[0] for layer in (net.layer1, net.layer2, net.layer3, net.layer4)] == [
        5,
        5,
        5,
        7,
    ]
    assert sum(each.conv.weight.numel() for each in gates(net)) == 86


def test_gate_in_closed_form():
    x = torch.randn(2, 8, 5, 5)
    module = gate(3, "test")
    nn.init.zeros_(module.conv.weight)
    assert torch.equal(module(x), x / 2)
    nn.init.constant_(module.conv.weight, 1 / 3)
    constant = torch.full((1, 8, 4, 4), 0.7)
    passed = (module(constant) / constant)[0, :, 0, 0]
    torch.testing.assert_close(passed[1:-1], torch.full((6,), 0.7).sigmoid())
    torch.testing.assert_close(passed[[0, -1]], torch.full((2,), 0.7 * 2 / 3).sigmoid())  # a zero beyond the ends


def test_neighbourhood_matters_unless_a_channel_is_alone():
    x, order = torch.randn(2, 8, 5, 5), torch.tensor([3, 1, 4, 0, 5, 7, 2, 6])
    for size, equal in ((1, True), (3, False)):
        module = gate(size, "test")
        assert torch.allclose(module(x[:, order]), module(x)[:, order]) is equal


def test_every_residual_branch_ends_in_a_gate(net):
    blocks = [m for m in net.modules() if isinstance(m, (BasicBlock, InvertedResidual, DepthwiseSeparableConv))]
    assert len(gates(net)) == len(blocks) > 3
    said = {}
    for block in blocks:  # a copy, because the addition that follows is in place
        gates(block)[0].register_forward_hook(lambda m, args, out: said.update({m: (args[0], out.clone())}))
    net(X)
    for into, out in (said[each] for each in gates(net)):
        shares = (out.mean((2, 3)) / into.mean((2, 3)))[:, :, None, None]
        assert 0 < shares.min() and shares.max() < 1
        torch.testing.assert_close(shares * into, out, rtol=1e-3, atol=1e-4)


def test_intermediates_and_features_only_agree():
    for name, width in (("eca_resnet18", 512), ("eca_mobilenetv2_100", 320)):
        torch.manual_seed(0)
        whole = timm.create_model(name).eval()
        getter = timm.create_model(name, features_only=True, out_indices=(1, 4)).eval()
        start = "" if name == "eca_resnet18" else "model."
        getter.load_state_dict({start + k: v for k, v in whole.state_dict().items()}, strict=False)
        final, maps = whole.forward_intermediates(X)
        assert torch.equal(final, whole.forward_features(X))
        for info, m in zip(whole.feature_info, maps, strict=True):
            assert m.shape == (2, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])
        assert all(torch.equal(a, b) for a, b in zip(getter(X), (maps[1], maps[4]), strict=True))
        assert getter.feature_info.channels()[-1] == width


def test_heads(net):
    pooled = net.forward_head(net.forward_features(X), pre_logits=True)
    assert pooled.shape == (2, net.head_hidden_size)
    net.reset_classifier(7)
    assert net(X).shape == (2, 7)
    net.reset_classifier(0)
    assert torch.equal(net(X), pooled)


def test_other_inputs(net):
    small = {k: v for k, v in net.tiny.items() if k != "num_classes"}
    assert type(net)(**small, in_chans=1, num_classes=0).eval()(X[:, :1]).shape == (2, net.head_hidden_size)


def test_channels_last_bf16_and_export_agree(net):
    wanted = net(X)
    torch.testing.assert_close(
        net.to(memory_format=torch.channels_last)(X.to(memory_format=torch.channels_last)), wanted
    )
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(X).float(), wanted, rtol=0.1, atol=0.1 * wanted.abs().max().item())
    torch.testing.assert_close(torch.export.export(net, (X,)).module()(X), wanted)


def test_checkpointing_gives_the_same_gradients(net):
    net.train().drop_rate = 0.0
    first = next(net.parameters())
    wanted = torch.autograd.grad(net(X).square().sum(), first)[0]
    net.set_grad_checkpointing()
    torch.testing.assert_close(torch.autograd.grad(net(X).square().sum(), first)[0], wanted)


def test_groups_name_every_parameter_once(net):
    from timm.models import group_parameters

    names = [n for group in group_parameters(net, net.group_matcher()).values() for n in group]
    assert sorted(names) == sorted(n for n, _ in net.named_parameters())


def test_released_names_of_a_resnet_load(tmp_path):
    torch.manual_seed(1)
    net = timm.create_model("eca_resnet18", num_classes=5)
    torch.save({"state_dict": {f"module.{k.replace('.se.', '.eca.')}": v for k, v in net.state_dict().items()}},
               tmp_path / "released.pth.tar")  # fmt: skip
    overlay = {"file": str(tmp_path / "released.pth.tar"), "num_classes": 5}
    again = timm.create_model("eca_resnet18", pretrained=True, num_classes=5, pretrained_cfg_overlay=overlay)
    for name, value in net.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def released_mobilenet() -> nn.Module:
    """The released net's modules, in its order and under its names, written down from its table of blocks."""

    def unit(into: int, out: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(into, out, kernel, groups=groups, bias=False), nn.BatchNorm2d(out), nn.ReLU6())

    class Block(nn.Module):
        def __init__(self, into: int, out: int, expand: int):
            super().__init__()
            inner, eca = into * expand, nn.Module()
            eca.conv = nn.Conv1d(1, 1, 1 if out < 96 else 3, bias=False)
            self.conv = nn.Sequential(*([unit(into, inner)] if expand > 1 else []), unit(inner, inner, 3, inner),
                                      nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out), eca)  # fmt: skip

    net, into, features = nn.Module(), 32, [unit(3, 32, 3)]
    for expand, out, count in ((1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)):
        for _ in range(count):
            features.append(Block(into, out, expand))
            into = out
    net.features = nn.Sequential(*features, unit(320, 1280))
    net.classifier = nn.Sequential(nn.Dropout(), nn.Linear(1280, 1000))
    return net


def test_released_names_of_mobilenet_become_timms():
    with torch.device("meta"):
        net, released = timm.create_model("eca_mobilenetv2_100"), released_mobilenet()
    renamed = checkpoint_filter_fn(released.state_dict(), net)
    wanted = {k: v.shape for k, v in net.state_dict().items()}
    assert {k: v.shape for k, v in renamed.items()} == wanted
    assert checkpoint_filter_fn(net.state_dict(), net).keys() == wanted.keys()


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((3, 4, 5, 7), "the kernel size must be odd, got 4"),
        ((3, 0, 5, 7), "the kernel size must be odd, got 0"),
        ((3, 5, 7), "3 kernel sizes for 4 stages"),
        ("adaptiv", "'adaptiv' is no kernel size; give 4 odd numbers or 'adaptive'"),
    ],
)
def test_wrong_kernel_sizes_are_named(sizes, words):
    with pytest.raises(MarrowError, match=words):
        timm.create_model("eca_resnet18", kernel_sizes=sizes)
