import numpy as np
import pytest
import timm
import torch
from torch import nn

from marrow.backbones.pvt import PyramidVisionTransformer, SpatialReductionAttention, checkpoint_filter_fn, resized
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone

X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
GOLDEN = dict(
    img_size=64, dims=(8, 16, 20, 24), heads=(1, 2, 5, 3), depths=(1, 1, 1, 1), ratios=(4, 4, 2, 2),
    reductions=(4, 2, 2, 1), num_classes=5,
)  # fmt: skip


@pytest.fixture
def net() -> PyramidVisionTransformer:
    torch.manual_seed(0)
    return PyramidVisionTransformer(img_size=64, **PyramidVisionTransformer.tiny).eval()


def case(folder, name: str) -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in np.load(folder / "pvt" / f"{name}.npz").items()}


def weights(case: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix("w:"): v for k, v in case.items() if k.startswith("w:")}


def test_golden_attention(golden):
    given = case(golden, "sra_d32_h2_r2")
    module = SpatialReductionAttention(32, int(given["num_heads"]), int(given["sr_ratio"]))
    module.load_state_dict(weights(given))
    x = given["x"].requires_grad_()
    y = module(x, (int(given["H"]), int(given["W"])))
    y.backward(given["grad_out"])
    torch.testing.assert_close(y, given["y"], rtol=0, atol=1e-4)
    torch.testing.assert_close(x.grad, given["grad_x"], rtol=0, atol=1e-4)


def test_golden_net(golden):
    given = case(golden, "tiny_net_64x64")
    net = PyramidVisionTransformer(**GOLDEN).eval()
    net.load_state_dict(checkpoint_filter_fn(weights(given), net), strict=True)
    torch.testing.assert_close(net(given["x"]), given["logits"], rtol=0, atol=1e-4)
    detector = PyramidVisionTransformer(**GOLDEN, class_token=False).eval()
    detector.load_state_dict(checkpoint_filter_fn(weights(given), detector), strict=True)
    for i, ours in enumerate(detector.forward_intermediates(given["x"], intermediates_only=True)):
        torch.testing.assert_close(ours, given[f"feat{i + 1}"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "params", "gmacs"),
    [("tiny", 13229288, 1.933), ("small", 24485864, 3.816), ("medium", 44208104, 6.659), ("large", 61369320, 9.814)],
)
def test_sizes_are_the_papers(size, params, gmacs):
    with torch.device("meta"):
        backbone = TimmBackbone.create(f"pvt_{size}")
    head = 512 * 1000
    assert sum(p.numel() for p in backbone.parameters()) + head + 1000 == params
    assert round((cost(backbone).macs + head) / 1e9, 3) == gmacs


def test_shapes_are_the_papers():
    with torch.device("meta"):
        net, image = timm.create_model("pvt_tiny"), torch.empty(1, 3, 224, 224)
        maps = net.forward_intermediates(image, intermediates_only=True)
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 56, 56), (128, 28, 28), (320, 14, 14), (512, 7, 7)]


def test_without_reduction_it_is_plain_attention():
    torch.manual_seed(0)
    module, plain = SpatialReductionAttention(12, 3, 1), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        plain.in_proj_weight.copy_(torch.cat([module.q.weight, module.kv.weight]))
        plain.in_proj_bias.copy_(torch.cat([module.q.bias, module.kv.bias]))
        plain.out_proj.load_state_dict(module.proj.state_dict())
    x = torch.randn(2, 20, 12)
    torch.testing.assert_close(module(x, (4, 5)), plain(x, x, x, need_weights=False)[0])


def test_one_key_means_one_answer_for_every_query():
    torch.manual_seed(0)
    module, x = SpatialReductionAttention(12, 3, 4), torch.randn(2, 16, 12)
    out = module(x, (4, 4))
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    nn.init.normal_(module.q.weight)
    torch.testing.assert_close(module(x, (4, 4)), out)


def test_positions_of_another_size():
    table = torch.arange(1 + 16, dtype=torch.float).view(1, 17, 1)
    assert resized(table, (4, 4), (4, 4), 1) is table
    # As many tokens as the table has, in another shape: the first row of 2 x 8 lies between rows 0 and 1 of 4 x 4.
    wide = resized(table, (4, 4), (2, 8), 1)
    assert wide[0, 0] == 0 and wide.shape == table.shape
    torch.testing.assert_close(wide[0, 1:9, 0], torch.tensor([3, 3.25, 3.75, 4.25, 4.75, 5.25, 5.75, 6]))


def test_a_picture_of_other_proportions_moves_with_its_tokens(net):
    """With positions that are the same everywhere, a net built for 64 x 64 is the one built for the picture's size."""
    wide = PyramidVisionTransformer(img_size=(32, 128), **net.tiny).eval()
    for stage in net.stages:
        nn.init.constant_(stage.pos_embed, 0.5)
    state = net.state_dict()
    wide.load_state_dict(state, strict=True)  # 16 x 16 and 8 x 32: as many tokens
    x = torch.randn(1, 3, 32, 128)
    torch.testing.assert_close(net(x), wide(x))


def test_intermediates(net):
    final, maps = net.forward_intermediates(X)
    assert torch.equal(final, net.forward_features(X)) and final.shape == (2, 1 + 2 * 3, 32)
    for info, m in zip(net.feature_info, maps, strict=True):
        assert m.shape == (2, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])
    only = net.forward_intermediates(X, indices=[0, -3], stop_early=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(only, maps[:2], strict=True))
    normed = net.forward_intermediates(X, indices=1, norm=True, intermediates_only=True)[0]
    torch.testing.assert_close(normed.flatten(2).transpose(1, 2), final[:, 1:])
    with pytest.raises(MarrowError, match="NCHW"):
        net.forward_intermediates(X, output_fmt="NLC")


def test_pruned_net_gives_the_same_intermediates(net):
    wanted = net.forward_intermediates(X, indices=[1], intermediates_only=True)[0]
    assert net.prune_intermediate_layers([1], prune_norm=True) == [1]
    assert len(net.stages) == 2 and net.cls_token is None
    assert torch.equal(net.forward_intermediates(X, indices=[1], intermediates_only=True)[0], wanted)


def test_features_only_is_the_net_without_class_token():
    torch.manual_seed(0)
    small = {k: v for k, v in PyramidVisionTransformer.tiny.items() if k != "num_classes"}
    whole = timm.create_model("pvt_tiny", img_size=64, class_token=False, **small).eval()
    getter = timm.create_model("pvt_tiny", img_size=64, features_only=True, out_indices=(0, 2, 3), **small).eval()
    getter.model.load_state_dict(whole.state_dict(), strict=False)
    wanted = whole.forward_intermediates(X, indices=[0, 2, 3], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(getter(X), wanted, strict=True))
    assert getter.feature_info.channels() == [8, 24, 32] and getter.feature_info.reduction() == [4, 16, 32]


def test_heads(net):
    tokens = net.forward_features(X)
    assert torch.equal(net.forward_head(tokens, pre_logits=True), tokens[:, 0])
    net.reset_classifier(7)
    assert net(X).shape == (2, 7)
    net.reset_classifier(0, "avg")
    torch.testing.assert_close(net(X), tokens[:, 1:].mean(1))
    net.reset_classifier(0, "")
    assert torch.equal(net(X), tokens)
    plain = PyramidVisionTransformer(
        img_size=64, **{**net.tiny, "num_classes": 0}, class_token=False, in_chans=1
    ).eval()
    torch.testing.assert_close(plain(X[:, :1]), plain.forward_features(X[:, :1]).mean(1))


def test_checkpointing_gives_the_same_gradients(net):
    net.train()
    weight = net.stages[0].patch_embed.proj.weight
    wanted = torch.autograd.grad(net(X).square().sum(), weight)[0]
    net.set_grad_checkpointing()
    torch.testing.assert_close(torch.autograd.grad(net(X).square().sum(), weight)[0], wanted)


def test_channels_last_bf16_and_export_agree(net):
    wanted = net(X)
    torch.testing.assert_close(net(X.to(memory_format=torch.channels_last)), wanted)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(X).float(), wanted, rtol=0.1, atol=0.1 * wanted.abs().max().item())
    torch.testing.assert_close(torch.export.export(net, (X,)).module()(X), wanted)


def test_stochastic_depth_grows_with_depth():
    net = PyramidVisionTransformer(img_size=32, drop_path_rate=0.3, **PyramidVisionTransformer.tiny)
    rates = [block.drop_path.drop_prob for stage in net.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_groups_go_from_the_stem_to_the_head(net):
    from timm.models import group_parameters

    for coarse, count in ((True, 6), (False, 6)):  # stem, four stages of one block, head
        groups = group_parameters(net, net.group_matcher(coarse))
        assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in net.named_parameters())
        assert len(groups) == count
        assert "stages.0.pos_embed" in groups[0] and "cls_token" in groups[4] and "head.weight" in groups[5]
    assert net.no_weight_decay() == {"cls_token"}


def published(net: PyramidVisionTransformer) -> dict[str, torch.Tensor]:
    state = {}
    for name, value in net.state_dict().items():
        if name.startswith("stages."):
            _, number, *rest = name.split(".")
            first = f"{'block' if rest[0] == 'blocks' else rest[0]}{int(number) + 1}"
            name = ".".join([first, *rest[1:]])
        state[name] = value
    return state


def test_a_published_file_loads_at_another_size(net, tmp_path):
    torch.save(published(net), tmp_path / "pvt.pth")
    small = {k: v for k, v in net.tiny.items() if k != "num_classes"}
    same = TimmBackbone.create("pvt_tiny", img_size=64, weights=str(tmp_path / "pvt.pth"), **small).eval()
    assert torch.equal(same.net(X), net.forward_head(net.forward_features(X), pre_logits=True))
    assert torch.equal(same.classifier[0], net.head.weight)
    larger = TimmBackbone.create("pvt_tiny", img_size=(64, 96), weights=str(tmp_path / "pvt.pth"), **small).eval()
    assert larger.net.stages[0].pos_embed.shape == (1, 16 * 24, 8)
    torch.testing.assert_close(larger.net(X), same.net(X))
    with pytest.raises(MarrowError, match="not a weight file of this net|the net has"):
        TimmBackbone.create(
            "pvt_tiny", img_size=64, weights=str(tmp_path / "pvt.pth"), **{**small, "depths": (1, 1, 2, 1)}
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"img_size": 225}, "PVT needs height and width divisible by 32, got 225; pad the batch"),
        ({"heads": (1, 2, 5, 5)}, "5 heads do not divide 512 channels"),
        ({"reductions": (8, 4, 2, 2)}, "a class token needs a last stage that reduces nothing"),
        ({"class_token": False, "global_pool": "token"}, "'token' is none of 'avg', ''"),
    ],
)
def test_what_does_not_fit_is_named(arguments, words):
    with torch.device("meta"), pytest.raises(MarrowError, match=words):
        PyramidVisionTransformer(**arguments)


def test_pictures_that_do_not_fit_are_named(net):
    for height, width, got in ((64, 80, 80), (16, 64, 16)):
        with pytest.raises(MarrowError, match=f"divisible by 32, got {got}"):
            net(torch.zeros(1, 3, height, width))
