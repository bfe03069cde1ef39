import copy
import json
import subprocess
import sys

import pytest
import torch
from timm.layers import EcaModule
from torch import nn

from marrow.backbones.vit_resnas import VitRes
from marrow.core.artifact import Artifact, save
from marrow.core.contracts import Backbone, Cut, Features, Input
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.spec import build, cut, load_weights, saved_weights
from marrow.core.timm_backbone import TimmBackbone
from marrow.shrink.prune import MagnitudePrune, Prune
from marrow.shrink.prune_plan import verify
from marrow.shrink.slicing import ranges
from marrow.tasks.classify import Classify

IMAGE = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
VIT = ("vit_tiny_patch16_224", {"patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3})
PVT = ("pvt_tiny", {"dims": (8, 16, 24, 32), "heads": (1, 2, 3, 4), "depths": (1, 1, 1, 2)})
EMO = ("emo_1m", {"depths": (1, 1, 2, 2), "dims": (8, 12, 16, 24), "head_dims": (8, 12, 8, 12)})
# Nets in which a channel of zeros is as good as none, since nothing normalises over channels that are cut.
NETS = [
    ("resnet10t", {"channels": (32, 48, 64, 96), "stem_width": 32}),
    ("mobilenetv3_small_050", {}),
    ("regnety_002", {}),
    ("cb_resnet50", {"base": "test_resnet"}),
    ("eca_resnet18", {"channels": (32, 48, 64, 96), "kernel_sizes": (1, 1, 1, 1)}),
    VIT,
    PVT,
    ("vit_resnas_tiny", VitRes.tiny),
    EMO,
]
FAMILIES = [
    "cifar_resnet20",
    "eca_resnet18",
    "eca_mobilenetv2_100",
    "ecaresnet26t",
    "pvt_tiny",
    "vit_resnas_tiny",
    "emo_1m",
    "cb_resnet50",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "seresnet18",
    "regnetx_002",
    "regnety_002",
    "mobilenetv2_050",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "efficientnet_b0",
    "convnext_atto",
    "densenet121",
    "vgg11_bn",
    "ghostnet_100",
    "dla34",
    "hrnet_w18_small",
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
]


class TwoConvolutions(Backbone):
    """3 -> 4 -> 2 channels, both 1 x 1, averaged over the image."""

    spec, dim, gives, input = {"source": "two"}, 2, frozenset({"pooled"}), Input(size=(4, 4))

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def features(self, x, *, maps=()):
        return Features(self.second(self.first(x).relu()).mean((2, 3)))


def backbone(name: str, size: int = 32, **arguments) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone.create(name, img_size=size, **arguments).eval()


def task(name: str, **arguments) -> Classify:
    net = backbone(name, **arguments)
    return Classify(net, classes=5).eval()


def lively(model: nn.Module) -> nn.Module:
    """No channel starts at zero, as the connections between the nets of a composite do."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def planned(model: nn.Module, **arguments) -> Cut:
    return MagnitudePrune(**arguments).plan({"model": model}, None, None)


def indices(text: str) -> list[int]:
    parts = [part.partition("-") for part in text.split()]
    return [i for low, _, high in parts for i in range(int(low), int(high or low) + 1)]


@torch.no_grad()
def silenced(model: nn.Module, edit: Prune) -> nn.Module:
    """A copy with zeros wherever the edit takes something out."""
    model = copy.deepcopy(model)
    tensors = model.state_dict()
    for name, positions in edit.tensors.items():
        for dim, position in enumerate(positions):
            if position is not None:
                kept = indices(edit.channels[position])
                gone = [i for i in range(tensors[name].shape[dim]) if i not in kept]
                tensors[name].index_fill_(dim, torch.tensor(gone), 0)
    return model


def set_fused(model: nn.Module, fused: bool) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    return model


def test_the_weakest_of_two_convolutions_go():
    net = TwoConvolutions()
    with torch.no_grad():
        for conv, strengths in ((net.first, [1.0, 0.1, 2.0, 0.2]), (net.second, [1.0, 1.0])):
            conv.weight.copy_(torch.tensor(strengths).view(-1, 1, 1, 1).expand_as(conv.weight))
    plan = planned(net, ratio=0.5, round_to=2)
    edit = plan.edit
    assert plan.weights is None
    # `second` has one multiple of 2, so its outputs stay; `first` loses channels 1 and 3.
    assert edit.channels == ("0 2",)
    assert edit.tensors == {"first.weight": (0,), "first.bias": (0,), "second.weight": (None, 0)}
    assert edit.attributes["first"] == {"groups": 1, "in_channels": 3, "out_channels": 2}
    assert edit.attributes["second"] == {"groups": 1, "in_channels": 2, "out_channels": 2}
    x = torch.rand(2, 3, 4, 4)
    wanted = silenced(net, edit)(x).pooled
    torch.testing.assert_close(edit.apply([net])(x).pooled, wanted)


@pytest.mark.parametrize("name, arguments", NETS, ids=[n[0] for n in NETS])
def test_a_cut_net_is_the_whole_one_with_zeros_in_what_is_gone(name, arguments):
    model = lively(task(name, **{k: v for k, v in arguments.items() if k != "num_classes"}))
    plan = planned(model, ratio=0.4, round_to=8)
    whole = silenced(model, plan.edit)
    small = cut([model], plan).eval()
    assert cost(small).macs < cost(whole).macs
    for fused in (True, False):
        with torch.inference_mode():
            wanted = set_fused(whole, fused)({"image": IMAGE})["logits"]
            got = set_fused(small, fused)({"image": IMAGE})["logits"]
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


def test_a_backbone_keeps_its_strongest_outputs():
    net = backbone("resnet10t", channels=(16, 16, 32, 64), stem_width=16)
    plan = planned(net, ratio=0.5)
    with torch.inference_mode():
        whole = silenced(net, plan.edit)(IMAGE).pooled
    net = cut([net], plan).eval()
    with torch.inference_mode():
        got = net(IMAGE).pooled
    assert got.shape == (2, 32) and net.dim == 32
    kept = indices(plan.edit.channels[plan.edit.tensors["net.layer4.0.conv2.weight"][0]])
    torch.testing.assert_close(got, whole[:, kept], rtol=1e-4, atol=1e-5)
    assert Classify(net, classes=3)({"image": IMAGE})["logits"].shape == (2, 3)


def test_modules_know_what_they_have_become():
    model = task("resnet18")
    before = cost(model)
    model = cut([model], planned(model))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups)
            assert module.out_channels % 16 == 0
        if isinstance(module, nn.BatchNorm2d):
            assert module.weight.shape == module.running_var.shape == (module.num_features,)
    net = model.backbone.net
    assert model.head.out_features == 5 and model.head.weight.shape == (5, 352)  # 0.7 * 512 = 358.4
    assert model.backbone.dim == net.num_features == model.head.in_features == 352
    with torch.inference_mode():
        maps = model.backbone(IMAGE, maps=range(len(net.feature_info))).maps
    assert [m.shape[1] for m in maps] == [info["num_chs"] for info in net.feature_info]
    after = cost(model)
    assert after.macs < 0.6 * before.macs and after.params < 0.6 * before.params


def test_a_vit_loses_heads_and_hidden_units_but_no_width():
    model = task(VIT[0], **VIT[1])
    scale = model.backbone.net.blocks[0].attn.scale
    model = cut([model], planned(model))
    block = model.backbone.net.blocks[0]
    assert (block.attn.num_heads, block.attn.head_dim, block.attn.attn_dim, block.attn.scale) == (2, 16, 32, scale)
    assert block.attn.qkv.weight.shape == (96, 48) and block.attn.proj.weight.shape == (48, 32)
    assert block.mlp.fc1.out_features == block.mlp.fc2.in_features == 128  # 0.7 * 192 = 134.4
    assert model.backbone.dim == 48


def test_a_pvt_loses_heads_and_hidden_units_but_no_width():
    model = task(PVT[0], **PVT[1])
    model = cut([model], planned(model, ratio=0.5, round_to=8))
    first, last = model.backbone.net.stages[0].blocks[0], model.backbone.net.stages[3].blocks[0]
    assert first.attn.heads == 1 and first.attn.q.weight.shape == (8, 8)  # the only head stays
    assert last.attn.heads == 2 and last.attn.kv.weight.shape == (32, 32) and last.attn.proj.weight.shape == (32, 16)
    assert last.mlp.fc1.weight.shape == (64, 32)
    assert model.backbone.dim == 32


def test_an_emo_loses_expanded_channels_but_no_width():
    model = task(EMO[0], **EMO[1])
    model = cut([model], planned(model, ratio=0.5, round_to=8))
    block = model.backbone.net.stages.stage4[1]  # 24 channels, 3.5 times as many inside
    assert block.qk.weight.shape[:2] == (48, 24) and block.heads == 2
    assert block.v.conv.weight.shape[:2] == (40, 24) and block.proj.weight.shape[:2] == (24, 40)
    assert block.conv_local.conv.groups == block.conv_local.norm.num_features == 40
    assert model.backbone.dim == 24


def test_gates_slide_over_the_channels_that_are_left():
    model = task("eca_resnet18", channels=(32, 48, 64, 96))
    kernels = [m.conv.weight.clone() for m in model.modules() if isinstance(m, EcaModule)]
    model = cut([model], planned(model, ratio=0.5, round_to=8))
    gates = [m for m in model.modules() if isinstance(m, EcaModule)]
    assert all(torch.equal(gate.conv.weight, kernel) for gate, kernel in zip(gates, kernels, strict=True))
    block = model.backbone.net.layer4[1]
    assert block.conv2.out_channels == 48
    x = torch.rand(2, 48, 3, 3)
    neighbours = nn.functional.conv1d(x.mean((2, 3))[:, None], block.se.conv.weight, padding=block.se.conv.padding)
    torch.testing.assert_close(block.se(x), x * neighbours.sigmoid().mT[..., None])


def test_the_weakest_head_goes():
    model = task(VIT[0], **VIT[1])
    attn = model.backbone.net.blocks[1].attn
    with torch.no_grad():
        attn.proj.weight[:, 16:32] *= 0.01
        attn.qkv.weight.view(3, 3, 16, 48)[:, 1] *= 0.01
    edit = planned(model, round_to=192).edit
    position = edit.tensors["backbone.net.blocks.1.attn.proj.weight"][1]
    assert edit.channels[position] == "0-15 32-47"


def test_classes_stay_however_many_there_are():
    model = Classify(backbone("resnet10t", channels=(8, 16, 24, 32), stem_width=8), classes=64).eval()
    model = cut([model], planned(model, ratio=0.5, round_to=1))
    assert model({"image": IMAGE})["logits"].shape == (2, 64) and model.head.in_features == 16


def test_planning_changes_neither_the_model_nor_the_random_state():
    model = task("mobilenetv3_small_050").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    first, second = planned(model), planned(model)
    assert first == second and model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_artifact_opens_without_the_library_that_planned_it(tmp_path):
    model = task("resnet10t", channels=(16, 16, 32, 64), stem_width=16)
    model = cut([model], planned(model)).eval()
    made = save(tmp_path / "pruned", model)
    with torch.inference_mode():
        wanted = model({"image": IMAGE})["logits"]
        torch.testing.assert_close(Artifact.open(made.path).load()({"image": IMAGE})["logits"], wanted, rtol=0, atol=0)
    script = "import sys; from marrow.core.artifact import Artifact; Artifact.open(sys.argv[1]).load(); "
    script += "print('torch_pruning' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, str(made.path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_wrong_group_is_found_out():
    net = TwoConvolutions()
    right = {"first.weight": ([0, 2],), "first.bias": ([0, 2],), "second.weight": (None, [0, 2])}
    values = {"first": {"out_channels": 2}, "second": {"in_channels": 2}}
    right = {f"backbone.{name}": dims for name, dims in right.items()}
    values = {f"backbone.{name}": own for name, own in values.items()}
    model, image = Classify(net, classes=3), torch.rand(1, 3, 4, 4)
    verify(model, right, values, image, "two")
    wrong = right | {"backbone.second.weight": (None, [1, 2])}
    with pytest.raises(MarrowError, match="two cannot be pruned: .*which of its channels belong together"):
        verify(model, wrong, values, image, "two")


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({"ratio": 1.4}, r"prune.ratio: 1.4 is outside 0..0.95 \(fraction of channels removed\)"),
        ({"ratio": -0.1}, "-0.1 is outside"),
        ({"round_to": 0}, "0 is no number of channels"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments, words):
    with pytest.raises(MarrowError, match=words):
        MagnitudePrune(**arguments)


def test_what_cannot_be_cut_is_named():
    with pytest.raises(MarrowError, match="neither a backbone nor a task"):
        planned(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(
        MarrowError, match=r"resnet10t has no layer that can spare 30% .* multiples of 16. Give a smaller"
    ):
        planned(backbone("resnet10t", channels=(8, 8, 16, 16), stem_width=8))
    with pytest.raises(
        MarrowError, match=r"classify\(swin_tiny_.*\) cannot be pruned: what is left .*Families that can: resnet"
    ):
        planned(task("swin_tiny_patch4_window7_224", window_size=4, depths=(2, 2), embed_dim=24, num_heads=(2, 4)))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"channels": ["0-9"]}, "'0-9' are no channels of '0.weight', which has 4"),
        ({"channels": ["2 1"]}, "'1' are no channels"),
        ({"channels": [""]}, "no channel of '0.weight' is left"),
        ({"tensors": {"0.wieght": [0]}}, "no tensor '0.wieght' of 1 dimensions"),
        ({"tensors": {"0.bias": [None, 0]}}, "no tensor '0.bias' of 2 dimensions"),
        ({"tensors": {"0.weight": [1]}}, "'0.weight' names set 1 of 1"),
        ({"attributes": {"0": {"groups": "one"}}}, "'one' is no number"),
        ({"attributes": {"0": {"forward": 1}}}, "'forward' of '0' is not for an edit to set"),
        ({"attributes": {"7": {"groups": 1}}}, "'groups' of '7' is not for an edit to set"),
    ],
)
def test_an_edit_from_a_damaged_file_is_refused(change, words):
    values = {"channels": ["0 2"], "tensors": {"0.weight": [0]}, "attributes": {"0": {"out_channels": 2}}} | change
    with pytest.raises(MarrowError, match=words):
        Prune(**values).apply([nn.Sequential(nn.Conv2d(3, 4, 1))])


def test_sets_of_channels_are_short():
    assert ranges([0, 1, 2, 5, 7, 8]) == "0-2 5 7-8" and indices("0-2 5 7-8") == [0, 1, 2, 5, 7, 8]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name, tmp_path):
    sizes = {"cifar_resnet20": 32, "vit_resnas_tiny": 56}
    size = 224 if "patch16" in name else sizes.get(name, 64)
    model = Classify(backbone(name, size), classes=5)
    before = cost(model)
    model = cut([model], planned(model))
    after = cost(model)
    assert after.macs < before.macs and after.params < before.params
    image = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    loss = sum(model.train().losses(model({"image": image}), {"label": torch.tensor([0, 1])}).values())
    loss.backward()
    assert loss.isfinite() and all(p.grad is not None for p in model.parameters())
    optimizer.step()
    made = save(tmp_path / name, model.eval())
    again, rebuilt = Artifact.open(made.path).load(), build(json.loads(json.dumps(model.spec))).eval()
    load_weights(rebuilt, saved_weights(model))
    for fused in (True, False):
        with torch.inference_mode():
            wanted = set_fused(model, fused)({"image": image})["logits"]
            assert torch.equal(set_fused(again, fused)({"image": image})["logits"], wanted)
            assert torch.equal(set_fused(rebuilt, fused)({"image": image})["logits"], wanted)
