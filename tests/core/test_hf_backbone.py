"""Nets of transformers as Backbones: tiny ones made from a configuration, written by save_pretrained."""

import json
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from marrow.core import artifact, hf_config
from marrow.core.cost import cost
from marrow.core.errors import MarrowError
from marrow.core.fit_check import model_name
from marrow.core.models import backbone, resolve, task
from marrow.core.spec import build
from marrow.core.static_check import check_static

VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
VIT_MLP = {**VIT, "intermediate_size": 32}
SWIN = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4, "image_size": 32, "patch_size": 4}
CNN = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
TINY = {
    "vit": VIT_MLP,
    "deit": VIT_MLP,
    "vit_msn": VIT_MLP,
    "beit": VIT_MLP,
    "dinov2": VIT,
    "dinov2_with_registers": VIT,
    "dinov3_vit": {**VIT_MLP, "num_register_tokens": 4},
    "swin": SWIN,
    "swinv2": SWIN,
    "convnext": CNN,
    "convnextv2": CNN,
    "resnet": {**CNN, "embedding_size": 8, "layer_type": "basic"},
    "regnet": {**CNN, "embedding_size": 8, "groups_width": 8},
    "mobilenet_v2": {"image_size": 32, "depth_multiplier": 0.25},
    "siglip_vision_model": VIT_MLP,
    "clip_vision_model": VIT_MLP,
}
PROCESSOR = {
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.25],
    "size": {"height": 32, "width": 32},
    "resample": 3,
    "rescale_factor": 1 / 255,
}
IMAGE = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
NORMAL = (IMAGE / 255 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
CLASSIFIES = [f for f in TINY if f not in (*hf_config.WIDER, "dinov3_vit", "siglip_vision_model", "clip_vision_model")]


def saved(folder, kind="vit", opened=AutoModel, **more) -> torch.nn.Module:
    """A tiny net with random weights as transformers writes it, and what its pictures look like."""
    torch.manual_seed(0)
    net = opened.from_config(AutoConfig.for_model(kind, architectures=[], **TINY[kind], **more)).eval()
    net.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
    return net


@pytest.mark.parametrize("kind", TINY)
def test_every_family_gives_what_it_says_and_comes_back_from_an_artifact(kind, tmp_path):
    saved(tmp_path, kind)
    model = backbone(f"hf:{tmp_path}").eval()
    out = model.features(IMAGE, maps=(0, -1))
    assert {"pooled", "maps"} <= model.gives and out.pooled.shape == (2, model.dim)
    first, last = out.maps
    assert first.ndim == last.ndim == 4 and first.shape[-1] >= last.shape[-1]
    assert (out.tokens is not None) == ("tokens" in model.gives)
    if out.tokens is not None:
        assert out.tokens.shape[1] == last.shape[-1] * last.shape[-2]
    assert torch.allclose(model(IMAGE / 255.0).pooled, out.pooled, atol=1e-6)
    again = artifact.save(tmp_path / "artifact", model).load()
    assert again.spec == model.spec
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    # Some processors add in another order where tensors lie elsewhere in memory.
    torch.testing.assert_close(again(IMAGE).pooled, out.pooled)


@pytest.mark.parametrize("kind", CLASSIFIES)
def test_a_linear_classifier_of_the_checkpoint_waits_for_a_head(kind, tmp_path):
    net = saved(tmp_path, kind, AutoModelForImageClassification, num_labels=3)
    model = task("classify", backbone=backbone(f"hf:{tmp_path}"), classes=3).eval()
    with torch.no_grad():
        torch.testing.assert_close(model({"image": IMAGE})["logits"], net(NORMAL).logits)


def test_the_classes_are_named_when_the_checkpoint_names_them(tmp_path):
    names = {0: "cat", 1: "dog", 2: "owl"}
    saved(tmp_path, "vit", AutoModelForImageClassification, id2label=names)
    model = backbone(f"hf:{tmp_path}")
    assert model.classifier_labels == ["cat", "dog", "owl"]
    assert task("classify", backbone=model, classes=3).labels == ["cat", "dog", "owl"]
    assert task("classify", backbone=model, classes=4).labels is None


def test_a_classifier_that_sees_more_than_the_pooled_features_is_left_out(tmp_path):
    saved(tmp_path, "dinov2", AutoModelForImageClassification, id2label={0: "cat", 1: "dog"})
    model = backbone(f"hf:{tmp_path}")
    assert model.classifier is None and model.classifier_labels is None


def test_the_maps_of_a_vit_are_its_tokens_in_their_places(tmp_path):
    net = saved(tmp_path)
    model = backbone(f"hf:{tmp_path}").eval()
    with torch.no_grad():
        states = net(NORMAL, output_hidden_states=True).hidden_states
        first, last = model.features(IMAGE, maps=(0, -1)).maps
    torch.testing.assert_close(first[:, :, 1, 2], states[1][:, 1 + 1 * 4 + 2])  # a class token, then rows of four
    torch.testing.assert_close(last[:, :, 3, 0], states[2][:, 1 + 3 * 4])
    with pytest.raises(MarrowError, match=r"stages \[2\] are outside 0..1"):
        model.features(IMAGE, maps=(2,))


@pytest.mark.parametrize("kind", ["vit", "dinov2", "swin", "convnext"])
def test_another_size_is_taken(kind, tmp_path):
    saved(tmp_path, kind)
    model = backbone(f"hf:{tmp_path}", img_size=64).eval()
    assert model.input.size == (64, 64)
    out = model.features(torch.rand(1, 3, 64, 64), maps=(-1,))
    small = backbone(f"hf:{tmp_path}").eval().features(IMAGE, maps=(-1,)).maps[0]
    assert out.maps[0].shape[-1] == 2 * small.shape[-1]
    assert cost(model).macs > 2 * cost(backbone(f"hf:{tmp_path}")).macs


def test_an_artifact_opens_elsewhere_without_the_checkpoint_and_without_a_network(tmp_path):
    saved(tmp_path / "net", "vit", AutoModelForImageClassification, id2label={0: "cat", 1: "dog"})
    model = task("classify", backbone=backbone(f"hf:{tmp_path / 'net'}", img_size=48), classes=2).eval()
    image = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        save_file({"image": image, "logits": model({"image": image})["logits"]}, tmp_path / "pair.safetensors")
    artifact.save(tmp_path / "artifact", model)
    (tmp_path / "net" / "config.json").unlink()
    code = (
        "import socket, sys; socket.socket.connect = None\n"
        "import torch, marrow; from safetensors.torch import load_file\n"
        "pair = load_file(sys.argv[1]); model = marrow.load(sys.argv[2])\n"
        "with torch.no_grad(): print(torch.equal(model({'image': pair['image']})['logits'], pair['logits']), model.labels)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "pair.safetensors"), str(tmp_path / "artifact")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "True ['cat', 'dog']", done.stderr


def test_it_trains_and_checkpoints_its_gradients(tmp_path):
    saved(tmp_path)
    model = backbone(f"hf:{tmp_path}")
    assert model.training and all(p.requires_grad for p in model.parameters())
    model.checkpoint_gradients()
    model(IMAGE).pooled[:, 0].sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.net.embeddings.parameters())


def test_a_recipe_is_checked_without_the_weights(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    spec = {"task": "classify", "backbone": {"backbone": f"hf:{tmp_path}"}, "classes": 3}
    model = resolve(spec, {}, "task", meta=True)
    assert all(p.is_meta for p in model.parameters()) and model_name(model.spec) == "classify(hf:vit)"
    optim = {"adamw": {"lr": 1e-3}}
    stage = {"teach": "supervised", "task": spec, "data": {"train": [{"images": "digits"}]}, "steps": 1, "optim": optim}
    assert check_static({"seed": 0, "stages": [stage]}) == []
    with pytest.raises(MarrowError, match="has no weights that transformers finds"):
        resolve(spec, {}, "task")


def test_weights_that_do_not_fit_the_configuration_are_refused(tmp_path):
    saved(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state.pop("layernorm.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MarrowError, match="do not fit its configuration: 'layernorm.weight' is missing"):
        backbone(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("file", "change", "sentence"),
    [
        ("config.json", {"model_type": "bert"}, "'bert' is not among the image nets that work here"),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "only 1/255 is supported"),
        ("preprocessor_config.json", {"image_mean": None}, "gives no image_mean and image_std"),
        ("preprocessor_config.json", {"size": {"longest_edge": 9}}, "size {'longest_edge': 9} is not understood"),
        ("preprocessor_config.json", {"resample": 1}, r"filter 1 is not one of \[0, 2, 3\]"),
    ],
)
def test_files_that_say_something_else_are_refused(file, change, sentence, tmp_path):
    saved(tmp_path)
    values = json.loads((tmp_path / file).read_text(encoding="utf-8"))
    (tmp_path / file).write_text(json.dumps({**values, **change}), encoding="utf-8")
    with pytest.raises(MarrowError, match=sentence):
        backbone(f"hf:{tmp_path}")


def test_nobody_guesses_how_pictures_are_normalised(tmp_path):
    saved(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(
        MarrowError, match="no preprocessor_config.json, so nobody knows how its pictures are normalised"
    ):
        backbone(f"hf:{tmp_path}")


def test_a_name_that_is_not_here_ends_in_a_sentence():
    with pytest.raises(MarrowError, match="backbone: hf:nobody/nothing-of-this-name is not on this machine"):
        backbone("hf:nobody/nothing-of-this-name")
    with pytest.raises(MarrowError, match="no folder ./nowhere"):
        backbone("hf:./nowhere")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"auto_map": {"AutoModel": "x--y.Z"}}, "'auto_map' has no place in a configuration"),
        ({"_attn_implementation": "somebody/kernels"}, "'_attn_implementation' has no place"),
        ({"quantization_config": {"quant_method": "x"}}, "'quantization_config' has no place"),
        ({"hidden_size": "wide"}, "transformers cannot build a vit from this configuration"),
    ],
)
def test_a_spec_cannot_ask_for_code_or_nonsense(change, sentence, tmp_path):
    saved(tmp_path)
    spec = backbone(f"hf:{tmp_path}").spec
    wrong = {**spec, "args": {**spec["args"], "config": {**spec["args"]["config"], **change}}}
    with pytest.raises(MarrowError, match=sentence):
        build(wrong)
    with pytest.raises(MarrowError, match="'bert' is not among"):
        build({**spec, "source": "hf:bert"})
    with pytest.raises(MarrowError, match="the configuration of a net is needed"):
        build({**spec, "args": {}})


def test_how_a_processor_cuts_and_scales():
    def input_of(**values):
        return hf_config.input_of({**PROCESSOR, **values}, "x")

    cut = input_of(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, do_center_crop=True)
    assert (cut.size, cut.resize, cut.crop_pct, cut.interpolation) == ((224, 224), "crop", 0.875, "bicubic")
    squeezed = input_of(size=224, resample=2)
    assert (squeezed.size, squeezed.resize, squeezed.interpolation) == ((224, 224), "squash", "bilinear")
    convnext = input_of(size={"shortest_edge": 224}, crop_pct=0.875)
    assert (convnext.size, convnext.resize, convnext.crop_pct) == ((224, 224), "crop", 0.875)
    assert input_of(size={"shortest_edge": 384}, crop_pct=0.875).resize == "squash"
    assert input_of(do_normalize=False, image_mean=None).mean == (0.0, 0.0, 0.0)


def test_a_recipe_that_is_passed_on_names_the_folder_without_the_way_to_it(tmp_path):
    from marrow.stages import public

    there, hub = {"backbone": f"hf:{tmp_path}"}, {"backbone": "hf:google/vit-base-patch16-224"}
    assert public({"teacher": there, "student": hub}) == {
        "teacher": {"backbone": f"hf:{tmp_path.name}"},
        "student": hub,
    }


def test_quantized_checkpoints_are_refused(tmp_path):
    saved(tmp_path, "vit", AutoModelForImageClassification, id2label={0: "cat", 1: "dog"})
    file = tmp_path / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "quantization_config": {"quant_method": "x"}}), encoding="utf-8")
    with pytest.raises(MarrowError, match="are quantized"):
        backbone(f"hf:{tmp_path}")
