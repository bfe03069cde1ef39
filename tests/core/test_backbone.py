"""Every timm net as a Backbone: one list of checks over families that differ."""

import os
import subprocess
import sys
import tempfile

import pytest
import torch

from marrow.core.errors import MarrowError
from marrow.core.timm_backbone import TimmBackbone

SMALL = {"channels": (8, 16, 24, 32), "stem_width": 8}
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


def test_a_net_of_one_channel_sees_colours_as_grey():
    backbone = TimmBackbone.create("resnet10t", img_size=32, in_chans=1, **SMALL).eval()
    assert len(backbone.input.mean) == len(backbone.input.std) == backbone.input.channels == 1
    x = torch.rand(2, 3, 32, 32)
    grey = 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    with torch.no_grad():
        torch.testing.assert_close(backbone(x).pooled, backbone(grey).pooled)
        torch.testing.assert_close(
            backbone((255 * x).to(torch.uint8)).pooled, backbone(grey).pooled, rtol=0.1, atol=0.05
        )


def test_means_for_other_channels_are_refused():
    with pytest.raises(MarrowError, match="backbone.mean: 3 numbers for a net that takes 2 channels"):
        TimmBackbone.create("resnet10t", in_chans=2, **SMALL)
    with pytest.raises(MarrowError, match="backbone.std: 1 numbers for a net that takes 3 channels"):
        TimmBackbone.create("resnet10t", std=(0.5,), **SMALL)


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


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_of_a_vit_are_resampled_to_another_size(suffix, tmp_path):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1, img_size=64).eval()
    file = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(net.state_dict(), file)
    else:
        save_file(net.state_dict(), file)
    same = TimmBackbone.create("vit_tiny_patch16_224", depth=1, img_size=64, weights=str(file))
    assert torch.equal(same.net.pos_embed, net.pos_embed)
    larger = TimmBackbone.create("vit_tiny_patch16_224", depth=1, img_size=96, weights=str(file))
    assert larger.net.pos_embed.shape == (1, 37, 192) and larger.input.size == (96, 96)
    # The class token's place is not part of the grid, and the grid keeps its mean when it is stretched.
    assert torch.equal(larger.net.pos_embed[:, 0], net.pos_embed[:, 0])
    torch.testing.assert_close(larger.net.pos_embed[:, 1:].mean(), net.pos_embed[:, 1:].mean(), atol=1e-3, rtol=0)
    assert torch.equal(larger.net.blocks[0].attn.qkv.weight, net.blocks[0].attn.qkv.weight)
    assert "state_dict" not in larger.net.pretrained_cfg and larger.spec["args"] == {"img_size": 96, "depth": 1}


def test_the_classes_of_local_weights_are_named_beside_them(tmp_path):
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("resnet10t", num_classes=3).state_dict(), tmp_path / "net.safetensors")
    assert TimmBackbone.create("resnet10t", weights=str(tmp_path / "net.safetensors")).classifier_labels is None
    (tmp_path / "net.labels.txt").write_text("cat\ndog\nowl\n", encoding="utf-8")
    named = TimmBackbone.create("resnet10t", weights=str(tmp_path / "net.safetensors"))
    assert named.classifier_labels == ["cat", "dog", "owl"]


def test_weight_files_that_do_not_fit_are_refused(tmp_path):
    import timm

    torch.save(timm.create_model("resnet10t", num_classes=3, **SMALL).state_dict(), tmp_path / "small.pth")
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    (tmp_path / "broken.safetensors").write_bytes(b"not weights")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    wider = {**SMALL, "channels": (8, 16, 24, 48)}
    for name, file, sentence, *args in (
        ("resnet10t", "small.pth", r"small.pth: 'layer4.0.conv1.weight' is \(32, 24, 3, 3\), the net has", wider),
        ("resnet18", "small.pth", r"is not a weight file of this net: it (lacks|has) '.*' \(\d+ keys missing, \d+ too"),
        ("resnet10t", "broken.pth", "broken.pth cannot be read as weights"),
        ("resnet10t", "broken.safetensors", "broken.safetensors cannot be read as weights"),
        ("resnet10t", "other.pth", "other.pth holds something else than one tensor per name"),
    ):
        with pytest.raises(MarrowError, match=sentence) as error:
            TimmBackbone.create(name, weights=str(tmp_path / file), **(args[0] if args else {}))
        assert error.value.where == "backbone.weights"


def test_published_weights_that_cannot_be_had_end_in_one_sentence():
    """Where the hub answers, the first of these names is fetched and there is nothing to refuse."""
    with pytest.raises(MarrowError, match="no published weights for cifar_resnet56. Give a file of yours"):
        TimmBackbone.create("cifar_resnet56", pretrained=True)
    with pytest.raises(MarrowError, match="timm has no weights 'nope' for resnet18; there are a1_in1k"):
        TimmBackbone.create("resnet18.nope", pretrained=True)
    # An address at which nothing listens, in a process of its own: huggingface_hub reads it at import.
    code = (
        "import time; from marrow.core.timm_backbone import TimmBackbone\n"
        "from marrow.core.errors import MarrowError\n"
        "start = time.monotonic()\n"
        "try: TimmBackbone.create('resnet18.a1_in1k', pretrained=True)\n"
        "except MarrowError as error: print(error, time.monotonic() - start < 10)"
    )
    with tempfile.TemporaryDirectory() as empty:
        there = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": empty, "NO_PROXY": "127.0.0.1"}
        done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **there}, capture_output=True, text=True)
    assert "weights of resnet18.a1_in1k are not on this machine and http://127.0.0.1:9 does not answer" in done.stdout
    assert "resnet18.a1_in1k=FILE" in done.stdout and done.stdout.strip().endswith("True"), done.stderr


def test_published_weights_that_were_fetched_before_need_no_network(tmp_path):
    """A cache as huggingface_hub leaves it, and no hub."""
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(0)
    net = timm.create_model("test_resnet.r160_in1k")
    repository = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40, encoding="utf-8")
    save_file(net.state_dict(), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    code = (
        "from marrow.core.timm_backbone import TimmBackbone\n"
        "made = TimmBackbone.create('test_resnet.r160_in1k', pretrained=True)\n"
        "print(float(made.classifier[0].sum()))"
    )
    there = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **there}, capture_output=True, text=True)
    assert done.stdout and float(done.stdout) == pytest.approx(net.get_classifier().weight.detach().sum().item()), (
        done.stderr
    )


def test_the_image_size_reaches_a_net_whose_class_only_hands_it_on():
    assert TimmBackbone.create("deit_tiny_distilled_patch16_224", img_size=32).root.patch_embed.grid_size == (2, 2)
