import pytest
import timm
import torch
from timm.layers import DropPath, EcaModule
from torch import nn

from marrow.core.errors import MarrowError
from marrow.core.spec import apply, cut, saved_weights
from marrow.core.timm_backbone import TimmBackbone
from marrow.shrink.eca import Attach, AttachECA

IMAGE = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
NETS = {  # residual blocks that end in different ways, and how many there are
    "resnet10t": 4, "resnest14d": 4, "skresnet18": 8, "resnetv2_18": 8, "regnetx_002": 13, "dla46_c": 12,
    "mobilenetv2_050": 17, "mobilenetv3_small_050": 11, "mobilenetv4_conv_small_035": 12, "rexnet_100": 16,
    "convnext_atto": 12, "cifar_resnet20": 9,
}  # fmt: skip


def backbone(name: str, **arguments) -> TimmBackbone:
    """A net whose branches all say something, as those of a trained one do."""
    torch.manual_seed(0)
    net = TimmBackbone.create(name, img_size=64, **arguments).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    for name, parameter in net.named_parameters():
        if name.endswith(".gamma"):  # ConvNeXt's branches start at a millionth
            nn.init.constant_(parameter, 0.5)
    return net


def attached(net: nn.Module, **arguments) -> nn.Module:
    return cut([net], AttachECA(**arguments).plan({"model": net}, None, None)).eval()


def gates(net: nn.Module) -> list[EcaModule]:
    return [m for m in net.modules() if isinstance(m, EcaModule)]


@pytest.mark.parametrize(("name", "blocks"), NETS.items())
def test_the_net_says_what_it_said_before(name, blocks):
    net = backbone(name)
    with torch.inference_mode():
        before = net(IMAGE).pooled
        net = attached(net)
        assert len(gates(net)) == blocks
        assert torch.equal(net(IMAGE).pooled, before) and before.abs().max() > 0
        for gate in gates(net):
            nn.init.normal_(gate.conv.weight)
        assert not torch.allclose(net(IMAGE).pooled, before, rtol=0.01)


def test_a_resnet_becomes_the_eca_net_of_the_rule():
    plain, eca = backbone("resnet50"), timm.create_model("eca_resnet50", kernel_sizes="adaptive", num_classes=0)
    net = attached(plain)
    wanted = {k: v.shape for k, v in eca.state_dict().items()}
    assert {k: v.shape for k, v in saved_weights(net).items()} == wanted
    assert sum(g.conv.weight.numel() for g in gates(net)) == 86


def test_kernels_start_at_zero_and_move():
    net = attached(backbone("resnet10t"), kernel=5)
    net(IMAGE).pooled.square().mean().backward()
    for gate in gates(net):
        assert gate.conv.weight.shape == (1, 1, 5)
        assert not gate.conv.weight.any() and gate.conv.weight.grad.any()


def test_a_gate_goes_before_drop_path():
    net = backbone("convnext_atto", drop_path_rate=0.1)
    before = net(IMAGE).pooled
    net = attached(net)
    assert torch.equal(net(IMAGE).pooled, before)
    place = net.net.stages[1].blocks[1].drop_path
    assert [type(m) for m in place] == [EcaModule, DropPath]


@pytest.mark.parametrize(
    ("name", "small"),
    [("repvgg_a0", {}), ("densenet121", {"block_config": (1, 2, 1, 1), "growth_rate": 8})],
)
def test_nets_without_residual_blocks_get_gates_behind_their_stages(name, small):
    net = backbone(name, **small)
    with pytest.raises(MarrowError, match="no residual blocks.* where: stage puts gates behind the stages"):
        AttachECA().plan({"model": net}, None, None)
    with torch.inference_mode():
        before = net(IMAGE, maps=(0,)).maps[0]
        net = attached(net, where="stage")
        torch.testing.assert_close(net(IMAGE, maps=(0,)).maps[0], before / 2)
    assert len(gates(net)) == len(net.net.feature_info)


def test_the_edit_needs_no_weights():
    with torch.device("meta"):
        net = apply(Attach({"layer1.0.se": 3}), [TimmBackbone.create("resnet10t")])
    assert net.net.layer1[0].se.conv.weight.is_meta


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("seresnet18", {}, "'layer1.0.se' is SEModule already"),
        ("vit_tiny_patch16_224", {"where": "stage"}, r"work on maps \(B, C, H, W\); 'blocks.0' gives \(1, 17, 192\)"),
        ("resnet10t", {"kernel": 4}, "the kernel size must be odd, got 4"),
        ("resnet10t", {"where": "stem"}, "'stem' is neither 'block' nor 'stage'"),
        ("hrnet_w18_small", {"where": "stage"}, "'stem' of HighResolutionNet is no module"),
        ("efficientnetv2_rw_t", {"where": "stages"}, "neither"),
    ],
)
def test_what_does_not_fit_is_refused(name, arguments, words):
    with pytest.raises(MarrowError, match=words):
        AttachECA(**arguments).plan({"model": backbone(name)}, None, None)
