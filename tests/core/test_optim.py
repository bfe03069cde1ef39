"""Learning-rate curves and parameter groups."""

import math

import pytest
import torch
from torch import nn

from marrow.core.contracts import Method
from marrow.core.errors import MarrowError
from marrow.core.optim import build, layers_of, lr_at
from marrow.core.settings import Optim, Settings
from marrow.core.timm_backbone import TimmBackbone

from .engine_pieces import Duel, SmallNet, Sort, Supervise


class Bare(Method):
    """Trains a backbone, with or without a head above it."""

    def __init__(self, backbone, head=True):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.dim, 2) if head else None


def resnet():
    return TimmBackbone.create("resnet10t", img_size=32, channels=(8, 16, 16, 16), stem_width=8)


def vit():
    return TimmBackbone.create("vit_tiny_patch16_224", img_size=32, embed_dim=24, depth=3, num_heads=3)


def rates(method, settings):
    names = {p: name for name, p in method.named_parameters()}
    groups = build(method, settings)["main"].param_groups
    return {names[p]: (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}


def test_the_curve_by_hand():
    assert lr_at(0.025, "cosine", 5.0) == pytest.approx(0.5)
    assert lr_at(0.05, "cosine", 5.0) == pytest.approx(1.0)
    assert lr_at(0.525, "cosine", 5.0) == pytest.approx(0.5)
    assert lr_at(0.7, "cosine", 0.0) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.7)))
    assert lr_at(0.55, "linear", 10.0) == pytest.approx(0.5)
    assert lr_at(0.99, "constant", 10.0) == 1.0
    assert lr_at(1.0, "cosine", 5.0) == pytest.approx(0.0)


def test_weight_decay_spares_what_should_not_shrink():
    found = rates(Bare(vit()), Settings(optim={"main": Optim("adamw", 1e-3, {"weight_decay": 0.05})}))
    assert found["backbone.net.blocks.0.attn.qkv.weight"] == (1e-3, 0.05)
    assert found["head.weight"] == (1e-3, 0.05)
    for spared in ("blocks.0.attn.qkv.bias", "blocks.0.norm1.weight", "pos_embed", "cls_token"):
        assert found[f"backbone.net.{spared}"] == (1e-3, 0.0)


def test_layer_decay_is_timms():
    from timm.optim import param_groups_layer_decay

    backbone = vit()
    settings = Settings(optim={"main": Optim("adamw", 1.0, {"weight_decay": 0.05})}, layer_decay=0.7)
    found = rates(Bare(backbone), settings)
    backbone.net.reset_classifier(2)
    names = {p: name for name, p in backbone.net.named_parameters()}
    for group in param_groups_layer_decay(backbone.net, 0.05, layer_decay=0.7):
        for p in group["params"]:
            if not names[p].startswith("head"):
                assert found[f"backbone.net.{names[p]}"][0] == pytest.approx(group["lr_scale"]), names[p]
    assert found["head.weight"][0] == 1.0


def test_without_a_head_the_last_layer_has_the_full_rate():
    settings = Settings(optim={"main": Optim("sgd", 1.0)}, layer_decay=0.5)
    found = rates(Bare(resnet(), head=False), settings)
    assert max(lr for lr, _ in found.values()) == 1.0
    assert found["backbone.net.conv1.0.weight"][0] == min(lr for lr, _ in found.values()) < 1.0


@pytest.mark.parametrize("name, count", [("resnet10t", 5), ("convnext_atto", 5)])
def test_one_multiplier_a_stage(name, count):
    method = Bare(resnet() if name == "resnet10t" else TimmBackbone.create(name, img_size=32))
    multipliers = tuple(0.1 * (i + 1) for i in range(count))
    found = rates(method, Settings(optim={"main": Optim("sgd", 1.0)}, lr_multipliers=multipliers))
    layers, stages = layers_of(method.backbone.net, coarse=True)
    assert stages == count
    assert {round(lr, 6) for n, (lr, _) in found.items() if "backbone" in n} == {round(m, 6) for m in multipliers}
    stem = "conv1.0.weight" if name == "resnet10t" else "stem.0.weight"
    last = "layer4.0.conv1.weight" if name == "resnet10t" else "stages.3.blocks.0.conv_dw.weight"
    assert found[f"backbone.net.{stem}"][0] == multipliers[0]
    assert found[f"backbone.net.{last}"][0] == multipliers[-1]
    assert found["head.weight"][0] == 1.0
    with pytest.raises(MarrowError, match=f"3 numbers for {count} stages"):
        rates(method, Settings(lr_multipliers=(0.1, 0.2, 0.3)))


def test_kinds():
    method = Supervise(Sort(SmallNet()))
    sgd = build(method, Settings(optim={"main": Optim("sgd", 0.1)}))["main"]
    assert type(sgd) is torch.optim.SGD and sgd.defaults["momentum"] == 0.9 and not sgd.defaults["nesterov"]
    adam = build(method, Settings(optim={"main": Optim("adam", 0.1, {"betas": [0.5, 0.9]})}))["main"]
    assert type(adam) is torch.optim.Adam and adam.defaults["betas"] == (0.5, 0.9)
    lamb = build(method, Settings(optim={"main": Optim("lamb", 0.1, {"weight_decay": 0.01})}))["main"]
    assert type(lamb).__name__ == "Lamb" and {g["weight_decay"] for g in lamb.param_groups} == {0.0, 0.01}


@pytest.mark.parametrize("settings, words", [
    (Settings(optim={"main": Optim("adamv")}), "unknown optimiser 'adamv'; did you mean"),
    (Settings(optim={"main": Optim("adahessian")}), "adahessian needs second derivatives"),
    (Settings(optim={"main": Optim("adamw", args={"beta": 1})}), "adamw has no argument 'beta'; did you mean 'betas'"),
    (Settings(optim={"main": Optim("lamb", args={"beta": 1})}), "lamb does not take these arguments"),
    (Settings(optim={"main": Optim(schedule="cosin")}), "unknown schedule 'cosin'; did you mean 'cosine'"),
    (Settings(optim={"main": Optim(warmup_percent=120)}), "120 is outside 0..100"),
    (Settings(optim={"student": Optim()}), "Supervise has the players main; given: student"),
    (Settings(layer_decay=0.7), "no timm backbone to train"),
    (Settings(layer_decay=0.7, lr_multipliers=(1.0,)), "give one"),
])  # fmt: skip
def test_bad_settings_are_named(settings, words):
    with pytest.raises(MarrowError, match=words):
        build(Supervise(Sort(SmallNet())), settings)


def test_every_player_has_its_own():
    found = build(Duel(Sort(SmallNet())), Settings(optim={"noise": Optim("sgd"), "task": Optim("adamw")}))
    assert [type(o).__name__ for o in found.values()] == ["SGD", "AdamW"]
    assert sum(p.numel() for g in found["noise"].param_groups for p in g["params"]) == 3 * 8 * 8
