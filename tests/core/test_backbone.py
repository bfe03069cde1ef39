"""Every timm net as a Backbone: one list of checks over families that differ."""

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone

FAMILIES = {
    "resnet18": ({"maps", "pooled", "relu"}, {}),
    "vit_tiny_patch16_224": ({"maps", "pooled", "qkv", "tokens"}, {"depth": 2}),
    "mobilenetv3_small_050": ({"maps", "pooled", "relu"}, {}),
    "convnext_atto": ({"maps", "pooled"}, {}),
    "swin_tiny_patch4_window7_224": ({"maps", "pooled"}, {"depths": (1, 1, 1, 1)}),
    "deit_tiny_distilled_patch16_224": ({"maps", "pooled", "qkv", "tokens"}, {"depth": 2}),
    "efficientnet_b0": ({"maps", "pooled"}, {}),
    "mixer_s32_224": ({"maps", "pooled", "tokens"}, {}),
    "hrnet_w18_small": ({"maps", "pooled", "relu"}, {}),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_net_gives_is_what_running_it_gives(name):
    words, args = FAMILIES[name]
    backbone = TimmBackbone.create(name, **args).eval()
    assert backbone.gives == words
    x = torch.randint(0, 256, (2, 3, *backbone.input.size), dtype=torch.uint8)
    with torch.no_grad():
        out, with_maps = backbone(x), backbone.features(x, maps=(0, -1))
    assert out.pooled.shape == (2, backbone.dim)
    assert torch.allclose(out.pooled, with_maps.pooled, atol=1e-5)
    first, last = with_maps.maps
    assert first.ndim == last.ndim == 4 and first.shape[-1] >= last.shape[-1]
    assert (out.tokens is not None) == ("tokens" in words)


def test_bytes_and_unit_floats_are_the_same_picture():
    backbone = TimmBackbone.create("resnet18", img_size=32).eval()
    x = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(backbone(x).pooled, backbone(x / 255.0).pooled)
        ours = backbone.net(((x / 255.0) - backbone.mean) / backbone.std)
        assert torch.equal(backbone(x).pooled, ours)


def test_every_net_takes_img_size():
    assert TimmBackbone.create("resnet18", img_size=48).input.size == (48, 48)
    vit = TimmBackbone.create("vit_tiny_patch16_224", img_size=32, patch_size=4, depth=1)
    assert vit(torch.rand(1, 3, 32, 32)).tokens.shape == (1, 64, 192)


def test_a_classifier_of_local_weights_waits_for_a_head(tmp_path):
    import timm
    from safetensors.torch import save_file

    from marrow.tasks.classify import Classify

    net = timm.create_model("resnet10t", num_classes=5).eval()
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    backbone = TimmBackbone.create("resnet10t", img_size=64, weights=str(tmp_path / "net.safetensors"))
    task = Classify(backbone, classes=5).eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(task({"image": x})["logits"], net(backbone.normalized(x)), atol=1e-5)
    assert Classify(backbone, classes=4).head.weight.shape == (4, 512)


@pytest.mark.parametrize(
    ("name", "args", "sentence"),
    [
        ("resnet81", {}, "backbone: unknown backbone 'resnet81'; did you mean"),
        ("resnet18", {"depht": 2}, "timm's resnet18 does not take these arguments"),
        ("resnet18", {"features_only": True}, "'features_only' is not an argument of a backbone"),
        ("resnet18", {"weights": "nowhere.safetensors"}, "backbone.weights: no weight file at nowhere.safetensors"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(name, args, sentence):
    with pytest.raises(MarrowError, match=sentence):
        TimmBackbone.create(name, **args)


def test_a_stage_that_is_not_there_is_refused():
    with pytest.raises(MarrowError, match=r"stages \[9\] are outside 0..4"):
        TimmBackbone.create("resnet18", img_size=32).features(torch.rand(1, 3, 32, 32), maps=(9,))
