import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from marrow.backbones.vit_res_blocks import ResidualSpatialReduction, SelfAttention, positions
from marrow.backbones.vit_resnas import VitRes
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone

X = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
SMALL = {k: v for k, v in VitRes.tiny.items() if k != "num_classes"}
SUPER_TINY = dict(
    dims=(256, 512, 1024), head_dims=(32, 48, 64), heads=((6,) * 6, (12,) * 6, (12,) * 6),
    hidden=((768,) * 6, (1536,) * 6, (3072,) * 6),
)  # fmt: skip
SUPER_SMALL = dict(
    dims=(320, 640, 1280), head_dims=(32, 48, 64), heads=((8,) * 7, (16,) * 7, (16,) * 7),
    hidden=((960,) * 7, (1920,) * 7, (3840,) * 7),
)  # fmt: skip


@pytest.fixture
def net() -> VitRes:
    torch.manual_seed(0)
    return VitRes(img_size=32, **VitRes.tiny).eval()


def test_golden_reduction(golden):
    case = np.load(golden / "vit_resnas" / "residual_spatial_reduction_12to20_g4.npz")
    given = {k: torch.from_numpy(v) for k, v in case.items()}
    module = ResidualSpatialReduction(12, 20, (2, 2))
    module.load_state_dict({k.removeprefix("w:"): v for k, v in given.items() if k.startswith("w:")}, strict=True)
    x = given["x"].requires_grad_()
    y = module(x, (4, 4))
    y.backward(given["grad_out"])
    torch.testing.assert_close(y, given["y"], rtol=0, atol=1e-4)
    torch.testing.assert_close(x.grad, given["grad_x"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "arguments", "with_patch_head", "params", "gmacs"),
    [
        ("vit_res_tiny", {}, 42_781_736, 42_012_736, 1.794),
        ("vit_resnas_tiny", {}, 41_498_552, 40_793_552, 1.783),
        ("vit_resnas_small", {}, 64_605_108, 63_724_108, 2.846),
        ("vit_resnas_medium", {}, 97_323_672, 96_442_672, 4.513),
        ("vit_res_tiny", SUPER_TINY, 85_839_464, 84_814_464, 3.498),
        ("vit_res_tiny", SUPER_SMALL, 156_599_528, 155_318_528, 6.260),
    ],
)
def test_sizes_are_the_papers(name, arguments, with_patch_head, params, gmacs):
    with torch.device("meta"):
        whole = timm.create_model(name, patch_output=True, **arguments)
        plain = timm.create_model(name, **arguments)
        backbone = TimmBackbone.create(name, **arguments)
    assert sum(p.numel() for p in whole.parameters()) == with_patch_head
    assert sum(p.numel() for p in plain.parameters()) == params
    assert round((cost(backbone).macs + plain.num_features * 1000) / 1e9, 3) == gmacs


def test_a_reduction_that_has_learned_nothing_is_its_shortcut():
    module = ResidualSpatialReduction(4, 6, (2, 3))
    for layer in (module.patch_reduce, module.token_transform):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = torch.randn(2, 1 + 4 * 6, 4)
    y = module(x, (4, 6))
    assert y.shape == (2, 1 + 2 * 3, 6) and not y[..., 4:].any()
    torch.testing.assert_close(y[:, 0, :4], x[:, 0])
    corner = x[:, 1:].reshape(2, 4, 6, 4)[:, 2:4, 4:6].mean((1, 2))
    torch.testing.assert_close(y[:, -1, :4], corner)


def test_attention_written_out():
    torch.manual_seed(0)
    module, x = SelfAttention(10, 3, 4), torch.randn(2, 5, 10)
    q, k, v = module.qkv(x).chunk(3, -1)
    heads = []
    for h in range(3):
        own = slice(4 * h, 4 * h + 4)
        heads.append((q[..., own] @ k[..., own].transpose(1, 2) / 2).softmax(-1) @ v[..., own])
    torch.testing.assert_close(module(x), module.proj(torch.cat(heads, -1)))


def test_positions_of_another_size():
    table = torch.randn(1, 1 + 16, 3)
    assert positions(table, (4, 4), (4, 4), 1) is table
    wide = positions(table, (4, 4), (2, 8), 1)
    assert wide.shape == table.shape and torch.equal(wide[:, :1], table[:, :1])
    grown = F.interpolate(table[:, 1:].mT.reshape(1, 3, 4, 4), size=(2, 8), mode="bicubic", antialias=True)
    torch.testing.assert_close(wide[:, 1:], grown.flatten(2).mT)


def test_intermediates(net):
    final, maps = net.forward_intermediates(X)
    assert torch.equal(final, net.forward_features(X)) and final.shape == (2, 1 + 2 * 3, 32)
    for info, m in zip(net.feature_info, maps, strict=True):
        assert m.shape == (2, info["num_chs"], 32 // info["reduction"], 48 // info["reduction"])
    only = net.forward_intermediates(X, indices=[0, -2], stop_early=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(only, maps[:2], strict=True))
    normed = net.forward_intermediates(X, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(normed.flatten(2).mT, final[:, 1:])
    with pytest.raises(MarrowError, match="NCHW"):
        net.forward_intermediates(X, output_fmt="NLC")


@pytest.mark.parametrize("last", [0, 1, 2])
def test_pruned_net_gives_the_same_intermediates(net, last):
    wanted = net.forward_intermediates(X, indices=[last], intermediates_only=True)[0]
    assert net.prune_intermediate_layers([last], prune_norm=True) == [last]
    assert len(net.stages) == last + 1 and net.num_features == net.feature_info[last]["num_chs"]
    assert torch.equal(net.forward_intermediates(X, indices=[last], intermediates_only=True)[0], wanted)


def test_features_only(net):
    getter = timm.create_model("vit_res_tiny", img_size=32, features_only=True, out_indices=(0, 2), **SMALL).eval()
    getter.model.load_state_dict(net.state_dict(), strict=False)
    wanted = net.forward_intermediates(X, indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(getter(X), wanted, strict=True))
    assert getter.feature_info.channels() == [8, 32] and getter.feature_info.reduction() == [4, 16]


def test_heads(net):
    tokens = net.forward_features(X)
    assert torch.equal(net.forward_head(tokens, pre_logits=True), tokens[:, 0])
    net.reset_classifier(7)
    assert net(X).shape == (2, 7)
    net.reset_classifier(0, "avg")
    torch.testing.assert_close(net(X), tokens[:, 1:].mean(1))
    net.reset_classifier(0, "")
    assert torch.equal(net(X), tokens)
    grey = VitRes(img_size=32, in_chans=1, **SMALL, num_classes=3).eval()
    assert grey(X[:, :1]).shape == (2, 3)


def test_the_patch_head_is_for_training_only(net):
    both = VitRes(img_size=32, **VitRes.tiny, patch_output=True)
    whole, patches = both(X)
    assert whole.shape == (2, 10) and patches.shape == (2, 2 * 3, 10)
    patches.sum().backward()
    assert both.patch_head.weight.grad is not None and both.head.weight.grad is None
    assert both.eval()(X).shape == (2, 10)
    both.reset_classifier(0)
    assert both.patch_head is None


def test_checkpointing_gives_the_same_gradients(net):
    net.train()
    weight = net.stages[0].first.proj.weight
    wanted = torch.autograd.grad(net(X).square().sum(), weight)[0]
    net.set_grad_checkpointing()
    torch.testing.assert_close(torch.autograd.grad(net(X).square().sum(), weight)[0], wanted)


def test_channels_last_bf16_and_export_agree(net):
    wanted = net(X)
    torch.testing.assert_close(net(X.to(memory_format=torch.channels_last)), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(X).float(), wanted, rtol=0.1, atol=0.1 * wanted.abs().max().item())
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    exported = torch.export.export(net, (X,), dynamic_shapes=(batch,)).module()
    torch.testing.assert_close(exported(X), wanted)
    torch.testing.assert_close(exported(X[:1]), wanted[:1])


@pytest.mark.slow
def test_compiled_it_says_the_same(net):
    torch.testing.assert_close(torch.compile(net)(X), net(X))


def test_stochastic_depth_grows_with_depth():
    net = VitRes(img_size=32, drop_path_rate=0.5, **SMALL)
    rates = [block.drop_path.drop_prob for stage in net.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_groups_go_from_the_stem_to_the_head(net):
    from timm.models import group_parameters

    for coarse, count in ((True, 5), (False, 8)):  # stem, stages or blocks, head
        groups = group_parameters(net, net.group_matcher(coarse))
        assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in net.named_parameters())
        assert len(groups) == count
        assert "stages.0.first.proj.weight" in groups[0] and "head.weight" in groups[count - 1]
    assert "stages.1.first.pos_embed" in net.no_weight_decay() and len(net.no_weight_decay()) == 4


def test_a_file_of_another_size_loads_with_its_positions_resized(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pth")
    larger = TimmBackbone.create("vit_res_tiny", img_size=(32, 48), weights=str(tmp_path / "net.pth"), **SMALL).eval()
    assert larger.net.stages[0].first.pos_embed.shape == (1, 1 + 8 * 12, 8)
    torch.testing.assert_close(larger.net(X), net.forward_features(X)[:, 0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"img_size": 225}, "ViT-Res needs height and width divisible by 56, got 225; 224 would do"),
        ({"img_size": 16}, "got 16; 56 would do"),
        ({"dims": (192, 384, 256)}, r"a stage is as wide as the one before, or wider; got \(192, 384, 256\)"),
        ({"patch_size": 7}, "patches have an even side, not 7"),
        ({"hidden": ((768,) * 4, (1536,) * 3, (3072,) * 4)}, "different numbers of blocks"),
        ({"dims": (192, 384)}, "three stages"),
        ({"global_pool": "max"}, "'max' is none of 'token', 'avg', ''"),
    ],
)
def test_what_does_not_fit_is_named(arguments, words):
    with torch.device("meta"), pytest.raises(MarrowError, match=words):
        VitRes(**arguments)


def test_pictures_that_do_not_fit_are_named(net):
    with pytest.raises(MarrowError, match="divisible by 16, got 40; 32 would do"):
        net(torch.zeros(1, 3, 32, 40))


def test_with_a_distillation_token():
    torch.manual_seed(0)
    net = VitRes(img_size=32, distilled=True, **VitRes.tiny).eval()
    plain = VitRes(img_size=32, **VitRes.tiny)
    added = 2 * 8 + 10 * 32  # the token, its position, its half of the head
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in plain.parameters()) + added
    tokens = net.forward_features(X)
    assert tokens.shape == (2, 2 + 2 * 3, 32) and "stages.0.first.dist_token" in net.no_weight_decay()
    torch.testing.assert_close(net(X), net.head(torch.cat([tokens[:, 0], tokens[:, 1]], 1)))
    maps = net.forward_intermediates(X, intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(8, 8, 12), (16, 4, 6), (32, 2, 3)]
    backbone = TimmBackbone.create("vit_res_tiny", img_size=(32, 48), distilled=True, **SMALL).eval()
    features = backbone(X)
    assert backbone.dim == 64 and features.pooled.shape == (2, 64) and features.tokens.shape == (2, 6, 32)
    assert "distillation-token" in backbone.gives and "slimmable" not in backbone.gives


def test_positions_of_another_size_with_a_distillation_token(tmp_path):
    net = VitRes(img_size=32, distilled=True, **VitRes.tiny).eval()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    larger = TimmBackbone.create("vit_res_tiny", img_size=(32, 48), weights=str(tmp_path / "net.pth"), distilled=True,
                                 **SMALL).eval()  # fmt: skip
    tokens = net.forward_features((X - larger.mean) / larger.std)
    torch.testing.assert_close(larger(X).pooled, tokens[:, :2].flatten(1))
