import re
from collections import OrderedDict

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from marrow.backbones.cbnet import CBNet
from marrow.backbones.cbnet_feeds import Feed, StillBatchNorm, sources
from marrow.backbones.cbnet_weights import checkpoint_filter_fn
from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone
from marrow.core.wrappers import taps
from marrow.tasks.segment import Segment

X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def lively(net: nn.Module) -> nn.Module:
    """Batch statistics, scales and shifts as after a training, those of the connections apart."""
    torch.manual_seed(1)
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.ndim == 1 and tensor.is_floating_point():
            tensor.add_(0.1 * torch.randn_like(tensor))
    return net.eval()


def swin() -> nn.Module:
    return timm.create_model(
        "swin_tiny_patch4_window7_224", embed_dim=12, depths=(1, 2, 2, 1), num_heads=(1, 2, 3, 4), window_size=4,
        img_size=64, strict_img_size=False, always_partition=True, num_classes=5, drop_path_rate=0.0,
    )  # fmt: skip


def filled(net: CBNet, single: nn.Module) -> CBNet:
    """A composite whose members have the weights of one net."""
    net.load_state_dict(checkpoint_filter_fn(single.state_dict(), net), strict=True)
    return net.eval()


@pytest.fixture
def net() -> CBNet:
    torch.manual_seed(0)
    return lively(CBNet(**CBNet.tiny))


@pytest.mark.parametrize(
    "name, whole, between",
    [
        ("cb_resnet50", 51_383_872, 4_587_520 + 5_632),
        ("cb_swin_tiny_patch4_window7_224", None, 646_176),
    ],
)
def test_sizes_are_the_papers(name, whole, between):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    assert sum(p.numel() for p in model.feeds.parameters()) == between
    if whole:
        assert sum(p.numel() for p in model.parameters()) == whole
        assert sum(p.numel() for p in model.members[0].parameters()) == 23_508_032
        assert sum(p.numel() for p in model.members[1].parameters()) == 23_508_032 - 9_536 - 215_808


def test_res2net_lead_lacks_what_it_shares():
    with torch.device("meta"):
        model = timm.create_model("cb_res2net101_26w_4s", num_classes=0)
        single = timm.create_model("res2net101_26w_4s", num_classes=0)
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in single.named_children()}
    lead = sum(count.values()) - count["conv1"] - count["bn1"] - count["layer1"]
    assert [sum(p.numel() for p in m.parameters()) for m in model.members] == [sum(count.values()), lead]
    assert sum(p.numel() for p in model.feeds.parameters()) == 4_587_520 + 5_632


def test_styles():
    assert [sources("slc", i, 4) for i in range(4)] == [[], [0], [1], [2]]
    assert [sources("ahlc", i, 4) for i in range(4)] == [[0], [1], [2], [3]]
    assert [sources("allc", i, 4) for i in range(4)] == [[], [], [0], [1]]
    assert [sources("dhlc", i, 4) for i in range(4)] == [[0, 1, 2, 3], [1, 2, 3], [2, 3], [3]]
    assert [sources("fcc", i, 4) for i in range(4)] == [[0, 1, 2, 3]] * 4


def test_golden_convolutional_feeds(golden):
    file = np.load(golden / "cbnetv2" / "dhlc_cnn_del1.npz")
    widths = file["cb_inplanes"].tolist()
    maps = [torch.from_numpy(file[f"feat{i}"]) for i in range(1, 5)]
    for i in range(1, 4):
        feed = Feed({j: widths[j + 1] for j in sources("dhlc", i, 4)}, widths[i], tokens=False)
        state = {}
        for key in (k for k in file.files if k.startswith(f"w:cb_linears.{i}.")):
            j, part, name = key.split(".")[2:]
            state[f"{i + int(j)}.{'norm' if part == '1' else 'conv'}.{name}"] = torch.from_numpy(file[key])
        missing, extra = feed.load_state_dict(state, strict=False)
        assert not extra and all(k.endswith("num_batches_tracked") for k in missing)
        got = feed.train()(maps, tuple(file[f"size{i}"].tolist()))
        torch.testing.assert_close(got, torch.from_numpy(file[f"feed{i}"]), rtol=0, atol=1e-4)


def test_golden_swin_feeds(golden):
    file = np.load(golden / "cbnetv2" / "dhlc_swin.npz")
    maps = [torch.from_numpy(file[f"feat{i}"]) for i in range(4)]
    for i in range(4):
        feed = Feed({j: maps[j].shape[1] for j in sources("dhlc", i, 4)}, maps[i].shape[1], tokens=True)
        keys = [k for k in file.files if k.startswith(f"w:cb_linears.{i}.")]
        state = {f"{i + int(k.split('.')[2])}.conv.{k.split('.')[3]}": torch.from_numpy(file[k]) for k in keys}
        feed.load_state_dict(state, strict=True)
        tokens = feed(maps, tuple(maps[i].shape[2:])).flatten(2).transpose(1, 2)
        torch.testing.assert_close(tokens, torch.from_numpy(file[f"feed{i}"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("share", [0, 1, 3])
@pytest.mark.parametrize("style, count", [("dhlc", 2), ("dhlc", 3), ("fcc", 2), ("slc", 2), ("allc", 3)])
def test_from_one_net_it_says_exactly_what_that_net_says(share, style, count):
    torch.manual_seed(0)
    single = lively(timm.create_model("test_resnet", num_classes=10))
    composite = CBNet("test_resnet", count, style, share, num_classes=10)
    filled(composite, single)
    wanted = single.forward_intermediates(X, intermediates_only=True)
    for maps in composite.forward_all(X):
        assert all(torch.equal(a, b) for a, b in zip(maps, wanted, strict=True))
    assert torch.equal(composite(X), single(X))


def test_a_composite_of_one_is_the_net():
    torch.manual_seed(0)
    single = lively(timm.create_model("cifar_resnet20"))
    alone = filled(CBNet("cifar_resnet20", 1, num_classes=10), single)
    assert torch.equal(alone(X), single(X)) and not list(alone.feeds.parameters())
    small = lively(swin())
    assert torch.equal(filled(CBNet([swin()], share_stages=0, num_classes=5), small)(X), small(X))


def test_connections_act_once_they_are_not_zero(net):
    before = net.forward_all(X)
    nn.init.ones_(net.feeds[0][2]["3"].norm.weight)
    after = net.forward_all(X)
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    same = [torch.equal(a, b) for a, b in zip(before[1], after[1], strict=True)]
    assert same == [True, True, True, False, False]  # stem, stages 0 and 1, then the fed stage and those behind it
    wanted = net.members[1].stages[2](before[1][2] + net.feeds[0][2](before[0][1:], before[1][2].shape[-2:]))
    torch.testing.assert_close(after[1][3], wanted)


def test_shared_stages_are_the_assistants_and_learn_from_both(net):
    assert not [n for n, _ in net.named_parameters() if re.match(r"members\.1\.(stem|stages\.0)\.", n)]
    assistant, lead = net.forward_all(X)
    assert assistant[0] is lead[0] and assistant[1] is not lead[2] and torch.equal(assistant[1], lead[1])
    lead[-1].square().mean().backward()
    assert net.members[0].stages[0][0].conv1.weight.grad.any()
    assert net.feeds[0][1]["3"].norm.weight.grad.any()


def test_a_task_supervises_the_assistant():
    torch.manual_seed(0)
    backbone = TimmBackbone.create("cb_resnet50", base="test_resnet", img_size=64)
    task = Segment(backbone, classes=3, width=8, assistant="members.0.norms.3", assistant_weight=0.5).train()
    batch = {"image": torch.rand(2, 3, 64, 64), "mask": torch.randint(3, (2, 64, 64))}
    for norm in (m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = 0.0
    last = backbone.net.forward_all(backbone.normalized(batch["image"]))[0][-1]
    with taps(backbone, "members.0.norms.3") as seen:
        losses = task.losses(task(batch), batch)
    assert torch.equal(seen["members.0.norms.3"], last)
    losses["assistant"].backward()
    assert any(p.grad.any() for p in backbone.net.members[0].stages[3].parameters())
    assert all(p.grad is None for p in backbone.net.members[1].parameters())


def test_the_norms_of_connections_stand_still():
    norm = StillBatchNorm(3).train()
    nn.init.constant_(norm.weight, 2.0)
    x = 5 + torch.randn(4, 3, 2, 2)
    torch.testing.assert_close(norm(x), 2 * x / (1 + norm.eps) ** 0.5)
    assert not norm.running_mean.any()
    net = CBNet(**CBNet.tiny).train()
    modes = {type(m): m.training for m in net.modules() if isinstance(m, nn.BatchNorm2d)}
    assert modes[StillBatchNorm] is False and len(modes) > 1 and sum(modes.values()) == len(modes) - 1


def test_a_swin_lead_starts_from_its_input_and_the_assistants_map():
    """Connections between equal widths are identities, which cannot start at zero: x + LN(out) at every stage."""
    torch.manual_seed(0)
    net = CBNet([swin(), swin()], share_stages=0).eval()
    entered = []
    hooks = [member.stages[1].register_forward_pre_hook(lambda _, x: entered.append(x[0])) for member in net.members]
    assistant, _ = net.forward_all(X)
    for hook in hooks:
        hook.remove()
    assert entered[0].shape == (2, 8, 12, 24)
    first = assistant[0].permute(0, 2, 3, 1)
    lead_first = net.members[1].stages[0](net.members[0].stem(X) + first)
    torch.testing.assert_close(entered[1], net.members[1].enters[1](lead_first) + assistant[1].permute(0, 2, 3, 1))


def test_a_gated_swin_says_exactly_what_its_net_says():
    torch.manual_seed(0)
    single = lively(swin())
    gated = filled(CBNet([swin(), swin()], share_stages=1, gated=True, num_classes=5), single)
    assert torch.equal(gated(X), single(X))
    nn.init.ones_(gated.feeds[0][1]["1"].weight)
    assert not torch.equal(gated(X), single(X))
    released = filled(CBNet([swin(), swin()], share_stages=1, num_classes=5), single)
    nn.init.ones_(gated.feeds[0][2]["2"].weight)
    nn.init.ones_(gated.feeds[0][3]["3"].weight)
    torch.testing.assert_close(gated(X), released(X))


@pytest.mark.parametrize("size", [(45, 70), (19, 33)])
def test_any_size(net, size):
    x = torch.rand(1, 3, *size)
    for model in (net, CBNet("swin_tiny_patch4_window7_224", share_stages=0, num_classes=0).eval()):
        maps = model.forward_intermediates(x, intermediates_only=True)
        for info, m in zip(model.feature_info, maps, strict=True):
            assert m.shape == (1, info["num_chs"], *(-(-s // info["reduction"]) for s in size))


def test_intermediates(net):
    final, maps = net.forward_intermediates(X)
    assert torch.equal(final, net.forward_features(X)) and torch.equal(final, maps[-1])
    for info, m in zip(net.feature_info, maps, strict=True):
        assert m.shape == (2, info["num_chs"], 64 // info["reduction"], 96 // info["reduction"])
        assert net.get_submodule(info["module"])
    early = net.forward_intermediates(X, indices=[0, -2], stop_early=True, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(early, [maps[0], maps[3]], strict=True))
    with pytest.raises(MarrowError, match="NCHW maps, not NLC"):
        net.forward_intermediates(X, output_fmt="NLC")


def test_pruned_net_gives_the_same_intermediates(net):
    wanted = net.forward_intermediates(X, indices=[0, 2], intermediates_only=True)
    assert net.prune_intermediate_layers([0, 2]) == [0, 2]
    assert len(net.members[1].stages) == 2 and len(net.members[0].stages) == 4 and net.num_features == 48
    got = net.forward_intermediates(X, indices=[0, 2], intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert net(X).shape == (2, 48, 8, 12)


def test_features_only_gives_the_intermediates():
    torch.manual_seed(0)
    whole = timm.create_model("cb_resnet50", base="test_resnet").eval()
    getter = timm.create_model("cb_resnet50", base="test_resnet", features_only=True).eval()
    getter.model.load_state_dict(whole.state_dict(), strict=False)
    wanted = whole.forward_intermediates(X, intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(getter(X), wanted, strict=True))
    assert getter.feature_info.reduction() == [2, 4, 8, 16, 32]


def test_heads(net):
    pooled = net.forward_head(net.forward_features(X), pre_logits=True)
    torch.testing.assert_close(net(X), net.get_classifier()(pooled))
    net.reset_classifier(7)
    assert net(X).shape == (2, 7)
    net.reset_classifier(0)
    assert torch.equal(net(X), pooled)
    net.reset_classifier(0, "")
    assert torch.equal(net(X), net.forward_features(X))
    assert CBNet("test_resnet", in_chans=1, num_classes=0)(X[:, :1]).shape == (2, 96)


def test_checkpointing_gives_the_same_gradients(net):
    net.train()
    start = net.members[0].stages[0][0].conv1.weight
    wanted = torch.autograd.grad(net(X).square().sum(), start)[0]
    net.set_grad_checkpointing()
    torch.testing.assert_close(torch.autograd.grad(net(X).square().sum(), start)[0], wanted)


def swins() -> CBNet:
    torch.manual_seed(0)
    return lively(CBNet([swin(), swin()], share_stages=0, num_classes=5))


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_half_precision_and_channels_last_agree(net, kind):
    model = net if kind == "resnet" else swins()
    wanted = model(X)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(X).float(), wanted, rtol=0.1, atol=0.1 * wanted.abs().max().item())
    torch.testing.assert_close(model.to(memory_format=torch.channels_last)(X), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_compiled_and_in_onnx_it_says_the_same(net, kind):
    import onnxruntime

    model = net if kind == "resnet" else swins()
    wanted = model(X)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), wanted, rtol=1e-4, atol=1e-5)
    file = torch.onnx.export(model, (X,), dynamo=True, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    [told] = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    torch.testing.assert_close(torch.from_numpy(told), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["resnet", "swin"])
def test_groups_name_every_parameter_once(net, kind):
    from timm.models import group_parameters

    model = net if kind == "resnet" else swins()
    for coarse in (True, False):
        groups = group_parameters(model, model.group_matcher(coarse))
        assert sorted(n for names in groups.values() for n in names) == sorted(n for n, _ in model.named_parameters())
        first, *_, last = (set(names) for names in groups.values())
        assert {n.split(".")[2] for n in first} == {"stem"} and last == {"fc.weight", "fc.bias"}
    tables = {n for n, _ in model.named_parameters() if "bias_table" in n}
    assert model.no_weight_decay() == tables and bool(tables) == (kind == "swin")


def as_released(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our keys as a released detector has them, with its neck and with what its lead kept of the stem."""
    keys = {"neck.lateral.weight": torch.zeros(1), "backbone.cb_modules.1.bn1.weight": torch.ones(3)}
    for key, value in state.items():
        if key.startswith("feeds."):
            _, _, stage, source, part, name = key.split(".")
            key = f"cb_linears.{stage}.{int(source) - int(stage)}.{['conv', 'norm'].index(part)}.{name}"
        else:
            _, member, key = key.split(".", 2)
            key = re.sub(r"^stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", key).removeprefix("stem.")
            key = f"cb_modules.{member}.{key}"
        keys[f"backbone.{key}"] = value
    return keys


def test_released_resnets_load(tmp_path):
    torch.manual_seed(1)
    model = CBNet("test_resnet", num_classes=0)
    nn.init.normal_(model.feeds[0][1]["3"].norm.bias)
    theirs = as_released(model.state_dict())
    for key in ("backbone.cb_linears.1.2.1.bias", "backbone.cb_modules.0.layer1.0.conv1.weight"):
        assert key in theirs
    save_file({k: v.clone() for k, v in theirs.items()}, tmp_path / "detector.safetensors")
    loaded = TimmBackbone.create("cb_resnet50", base="test_resnet", weights=str(tmp_path / "detector.safetensors"))
    ours = loaded.net.state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in model.state_dict().items())


def test_released_swins_load():
    """They merge patches at the end of a stage and keep tables of indices."""
    torch.manual_seed(1)
    model = CBNet([swin(), swin()], share_stages=0, num_classes=0)
    theirs = OrderedDict()
    for key, value in model.state_dict().items():
        if key.startswith("feeds."):
            _, _, stage, source, _, name = key.split(".")
            theirs[f"cb_linears.{stage}.{int(source) - int(stage)}.{name}"] = value
            continue
        _, member, key = key.split(".", 2)
        key = re.sub(r"^enters\.(\d)", lambda m: f"layers.{int(m[1]) - 1}.downsample", key)
        key = re.sub(r"^stages\.(\d)", r"layers.\1.blocks", key)
        key = re.sub(r"^norms\.(\d)", r"norm\1", key)
        theirs[f"cb_modules.{member}.{re.sub('^stem', 'patch_embed', key)}"] = value
    theirs["cb_modules.0.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16)
    assert "cb_modules.1.layers.2.downsample.reduction.weight" in theirs and "cb_linears.0.3.bias" in theirs
    again = checkpoint_filter_fn(theirs, model)
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(v, again[k]) for k, v in model.state_dict().items())


def test_one_nets_file_fills_it(tmp_path):
    torch.manual_seed(0)
    single = lively(timm.create_model("test_resnet", num_classes=3))
    save_file(single.state_dict(), tmp_path / "single.safetensors")
    loaded = TimmBackbone.create("cb_resnet50", base="test_resnet", weights=str(tmp_path / "single.safetensors")).eval()
    x = torch.rand(1, 3, 64, 64)
    wanted = single.forward_head(single.forward_features(loaded.normalized(x)), pre_logits=True)
    assert torch.equal(loaded(x).pooled, wanted)
    assert torch.equal(loaded.classifier[0], single.fc.weight)
    with pytest.raises(MarrowError, match="single.safetensors"):
        TimmBackbone.create("cb_resnet50", base="resnet10t", weights=str(tmp_path / "single.safetensors"))


@pytest.mark.parametrize(
    "args, told",
    [
        ({"style": "dhcl"}, "CBNet.style: unknown composite style 'dhcl'; did you mean 'dhlc'"),
        ({"share_stages": 4}, "CBNet.share_stages: 4 of 4 stages cannot be shared, the lead keeps one at least"),
        ({"count": 0}, "CBNet.count: a composite has at least one net"),
        ({"base": "test_resnets"}, "CBNet.base: unknown backbone 'test_resnets'; did you mean 'test_resnet'"),
        (
            {"base": "test_vit"},
            "CBNet.base: VisionTransformer cannot be made composite. ResNets, Res2Nets and Swins can",
        ),
    ],
)
def test_what_cannot_be_composed_is_refused(args, told):
    with pytest.raises(MarrowError, match=re.escape(told)):
        CBNet(**{**CBNet.tiny, **args})


def test_unequal_nets_are_refused():
    nets = [timm.create_model("cifar_resnet20"), timm.create_model("cifar_resnet32")]
    with pytest.raises(MarrowError, match="CBNet.base: .* equally built, nets 0 and 1 are not: CifarResNet with 116"):
        CBNet(nets)
