import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import LayerNorm2d
from torch import nn
from torch.nn import functional as F

from marrow.backbones.emo import EMO, IRMB, checkpoint_filter_fn, from_grid_windows, grid_windows
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone

X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def lively(net: nn.Module) -> nn.Module:
    """Weights and batch statistics that are neither 0 nor 1 nor alike."""
    torch.manual_seed(1)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return net.eval()


@pytest.fixture
def net() -> EMO:
    torch.manual_seed(0)
    return lively(EMO(**EMO.tiny, num_classes=10))


def as_published(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our keys as the released files have them: single layers inside `conv`, layer norms inside `norm`."""
    keys = {}
    for key, value in state.items():
        key = key.removeprefix("stages.")
        for ours, theirs in (("stage0.conv.", "stage0.0.convs.0.0."), ("stage0.norm.", "stage0.0.convs.0.1."),
                             ("stage0.block.", "stage0.1."), (".qk.", ".qk.conv."), (".proj.", ".proj.conv.")):  # fmt: skip
            key = key.replace(ours, theirs)
        parts = key.split(".")
        if parts[0] == "norm" or (parts[0] in ("stage3", "stage4") and parts[2] == "norm"):
            key = key.replace("norm.", "norm.norm.")
        keys[key] = value
    return keys


@pytest.mark.parametrize(
    "name, params, macs",
    [
        ("emo_1m", 1_361_168, 255e6),
        ("emo_2m", 2_377_472, 432e6),
        ("emo_5m", 5_108_848, 892e6),
        ("emo_6m", 6_168_496, 950e6),
    ],
)
def test_sizes_are_the_papers(name, params, macs):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == params
    assert cost(TimmBackbone.create(name)).macs + model.num_features * 1000 == pytest.approx(macs, abs=0.5e6)


def test_the_smallest_has_its_parameters_where_the_paper_has_them():
    with torch.device("meta"):
        model = timm.create_model("emo_1m")
    assert [sum(p.numel() for p in s.parameters()) for s in model.stages] == [2760, 11504, 27840, 452704, 697024]
    maps = model.forward_intermediates(torch.empty(1, 3, 224, 224, device="meta"), intermediates_only=True)
    wanted = [(24, 112, 112), (32, 56, 56), (48, 28, 28), (80, 14, 14), (168, 7, 7)]
    assert [tuple(m.shape[1:]) for m in maps] == wanted
    drops = [b.drop_path.drop_prob for s in model.stages[1:] for b in s]
    assert drops[-1] == pytest.approx(0.04036) and drops[1] == pytest.approx(0.04036 / 14)


@pytest.mark.parametrize("case", ["attn_ln_skip", "down_bn"])
def test_golden_blocks(golden, case):
    file = np.load(golden / "emo" / f"{case}.npz")
    said = {k: file[k].item() for k in file.files if file[k].ndim == 0}
    norm = {"ln_2d": LayerNorm2d, "bn_2d": nn.BatchNorm2d}[said["norm"]]
    block = IRMB(
        said["dim_in"], said["dim_out"], said["exp_ratio"], norm=norm,
        act={"gelu": nn.GELU, "silu": nn.SiLU}[said["act"]], head_dim=said["dim_head"] if said["attn_s"] else None,
        window=said.get("window_size", 7), kernel=said["dw_ks"], stride=said.get("stride", 1),
        skip=said.get("has_skip", True),
    ).eval()  # fmt: skip
    state = {f"stage1.0.{k[2:]}": torch.from_numpy(file[k]) for k in file.files if k.startswith("w:")}
    state = {k.removeprefix("stages.stage1.0."): v for k, v in checkpoint_filter_fn(state, block).items()}
    missing, extra = block.load_state_dict(state, strict=False)
    assert not extra and all(k.endswith("num_batches_tracked") for k in missing)
    x = torch.from_numpy(file["x"]).requires_grad_()
    y = block(x)
    torch.testing.assert_close(y, torch.from_numpy(file["y"]), rtol=0, atol=1e-4)
    y.backward(torch.from_numpy(file["grad_out"]))
    torch.testing.assert_close(x.grad, torch.from_numpy(file["grad_x"]), rtol=0, atol=1e-4)


def test_windows_are_a_grid_and_come_back():
    x = torch.arange(2 * 6 * 14 * 21.0).view(2, 6, 14, 21)
    windows = grid_windows(x, 7, heads=3)
    assert windows.shape == (2 * 2 * 3, 3, 49, 2)
    # Window (p, q) of image 1 at (a, b) holds pixel (2a + p, 3b + q); here p = 1, q = 2, a = 4, b = 5, head 2.
    assert torch.equal(windows[1 * 6 + 1 * 3 + 2, 2, 4 * 7 + 5], x[1, 4:6, 2 * 4 + 1, 3 * 5 + 2])
    assert torch.equal(from_grid_windows(windows, 7, 2, 3), x)


def test_a_pixel_is_seen_by_its_grid_only():
    torch.manual_seed(0)
    block = IRMB(8, 8, 2.0, norm=LayerNorm2d, head_dim=4)
    x = torch.randn(1, 8, 14, 14)
    other = x.clone()
    other[..., 0, 0] += 1
    changed = (block.attend(x) != block.attend(other)).any(1)[0]
    grid = torch.zeros(14, 14, dtype=torch.bool)
    grid[::2, ::2] = True
    assert torch.equal(changed, grid)


def test_one_window_is_full_attention():
    torch.manual_seed(0)
    block = IRMB(8, 8, 2.0, head_dim=4)
    x = torch.randn(2, 8, 7, 7)
    q, k = block.qk(x).flatten(2).view(2, 2, 2, 4, 49).unbind(1)  # (B, heads, d, N)
    mixed = torch.softmax(q.transpose(2, 3) @ k / 2, -1) @ x.flatten(2).view(2, 2, 4, 49).transpose(2, 3)
    torch.testing.assert_close(block.attend(x), mixed.transpose(2, 3).reshape(2, 8, 7, 7))


def test_the_convolution_has_a_skip_of_its_own():
    """With a depth-wise branch of zero a block without attention is x + shrink(act(expand(norm(x))))."""
    torch.manual_seed(0)
    block = IRMB(6, 6, 2.5).eval()
    nn.init.zeros_(block.conv_local.norm.weight)
    x = torch.randn(2, 6, 5, 5)
    torch.testing.assert_close(block(x), x + block.proj(F.silu(block.v.conv(block.norm(x)))))


def test_a_block_without_fitting_shapes_is_refused():
    with pytest.raises(MarrowError, match="IRMB.head_dim: 10 channels do not divide into heads of 4"):
        IRMB(10, 10, 2.0, head_dim=4)
    with pytest.raises(MarrowError, match="IRMB.skip: a skip needs equal shapes, not 8 -> 12 at stride 1"):
        IRMB(8, 12, 2.0)


def test_intermediates(net):
    final, maps = net.forward_intermediates(X)
    torch.testing.assert_close(final, net.forward_features(X), rtol=0, atol=0)
    for info, m in zip(net.feature_info, maps, strict=True):
        assert m.shape == (2, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])
    assert torch.equal(net.norm(maps[-1]), final)
    assert torch.equal(net.forward_intermediates(X, indices=1, norm=True, intermediates_only=True)[0], final)
    early = net.forward_intermediates(X, indices=[0, -2], stop_early=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(early, [maps[0], maps[3]], strict=True))
    with pytest.raises(MarrowError, match="NCHW maps, not NLC"):
        net.forward_intermediates(X, output_fmt="NLC")


def test_sizes_that_windows_do_not_divide(net):
    """Rows and columns that are no multiple of the stride: convolutions round up, attention pads and cuts."""
    maps = net.forward_intermediates(torch.rand(1, 3, 75, 33), intermediates_only=True)
    assert [tuple(m.shape[-2:]) for m in maps] == [(38, 17), (19, 9), (10, 5), (5, 3), (3, 2)]
    with pytest.raises(MarrowError, match="EMO: an image of 64 x 31 is smaller than the stride 32"):
        net(torch.rand(1, 3, 64, 31))


def test_pruned_net_gives_the_same_intermediates(net):
    wanted = net.forward_intermediates(X, indices=[1, 2], intermediates_only=True)
    assert net.prune_intermediate_layers([1, 2]) == [1, 2]
    assert len(net.stages) == 3 and not list(net.norm.parameters()) and net.num_features == 12
    got = net.forward_intermediates(X, indices=[1, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert net(X).shape == (2, 12, 8, 12)


def test_features_only_gives_the_intermediates():
    torch.manual_seed(0)
    whole = timm.create_model("emo_1m", **EMO.tiny).eval()
    getter = timm.create_model("emo_1m", features_only=True, out_indices=(1, 4), **EMO.tiny).eval()
    getter.model.load_state_dict(whole.state_dict(), strict=False)
    wanted = whole.forward_intermediates(X, indices=[1, 4], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(getter(X), wanted, strict=True))
    assert getter.feature_info.channels() == [8, 24] and getter.feature_info.reduction() == [4, 32]


def test_heads(net):
    pooled = net.forward_head(net.forward_features(X), pre_logits=True)
    torch.testing.assert_close(pooled, net.forward_features(X).mean((2, 3)))
    torch.testing.assert_close(net(X), net.get_classifier()(pooled))
    net.reset_classifier(7)
    assert net(X).shape == (2, 7)
    net.reset_classifier(0)
    assert torch.equal(net(X), pooled)
    net.reset_classifier(0, "")
    assert torch.equal(net(X), net.forward_features(X))
    assert EMO(**EMO.tiny, in_chans=1, num_classes=0)(X[:, :1]).shape == (2, 24)


def test_ablations_take_away_what_they_say():
    plain = EMO(**EMO.tiny, attention=False)
    assert not [n for n, _ in plain.named_parameters() if ".qk." in n]
    pointwise = EMO(**EMO.tiny, kernels=(1, 1, 1, 1), stem_stride=1, window=4)
    assert {m.kernel_size for m in pointwise.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}
    assert pointwise.feature_info[-1]["reduction"] == 16
    assert pointwise.forward_features(X[..., :32, :16]).shape == (2, 24, 2, 1)


def test_checkpointing_gives_the_same_gradients(net):
    net.train()
    start = net.stages.stage0.conv.weight
    wanted = torch.autograd.grad(net(X).square().sum(), start)[0]
    net.set_grad_checkpointing()
    torch.testing.assert_close(torch.autograd.grad(net(X).square().sum(), start)[0], wanted)


def test_half_precision_and_channels_last_agree(net):
    wanted = net(X)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(X).float(), wanted, rtol=0.1, atol=0.1 * wanted.abs().max().item())
    torch.testing.assert_close(net.to(memory_format=torch.channels_last)(X), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_and_in_onnx_it_says_the_same(net):
    import onnxruntime

    wanted = net(X)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), wanted, rtol=1e-4, atol=1e-5)
    file = torch.onnx.export(net, (X,), dynamo=True, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [told] = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    torch.testing.assert_close(torch.from_numpy(told), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_an_exported_graph_takes_every_size(net):
    """Of more than one window a side, as the image that it was traced with."""
    size = torch.export.Dim.AUTO
    graph = torch.export.export(net, (torch.rand(2, 3, 256, 288),), dynamic_shapes=({0: size, 2: size, 3: size},))
    x = torch.rand(3, 3, 275, 231)
    torch.testing.assert_close(graph.module()(x), net(x), rtol=1e-4, atol=1e-5)


def test_groups_name_every_parameter_once(net):
    from timm.models import group_parameters

    for coarse, count in ((True, 6), (False, 8)):  # stem, stages or their six blocks, and norm with head
        groups = group_parameters(net, net.group_matcher(coarse))
        assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in net.named_parameters())
        assert len(groups) == count
    assert net.no_weight_decay() == set()


def test_published_files_load(tmp_path):
    torch.manual_seed(1)
    model = timm.create_model("emo_1m")
    theirs = as_published(model.state_dict())
    for key in ("stage0.0.convs.0.0.bias", "stage0.1.se.conv_reduce.weight", "stage1.0.norm.running_mean", "head.bias",
                "stage3.1.norm.norm.weight", "stage4.2.qk.conv.bias", "stage4.2.conv_local.norm.bias", "norm.norm.bias",
                "stage2.1.v.conv.weight", "stage2.1.proj.conv.weight", "stage2.1.conv_local.conv.weight"):  # fmt: skip
        assert key in theirs
    save_file({k: v.clone() for k, v in theirs.items()}, tmp_path / "net.safetensors")
    loaded = TimmBackbone.create("emo_1m", weights=str(tmp_path / "net.safetensors"))
    ours = loaded.net.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in model.state_dict().items() if not k.startswith("head."))
    assert torch.equal(loaded.classifier[0], model.head.weight)


@pytest.mark.parametrize("field, values", [("depths", (1, 1, 2)), ("kernels", (3,))])
def test_other_numbers_of_stages_are_refused(field, values):
    with pytest.raises(MarrowError, match=rf"EMO\.{field}: EMO has 4 stages, got"):
        EMO(**{**EMO.tiny, field: values})
