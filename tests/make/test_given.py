"""What stands after --teacher: names, files, artifacts and folders of other libraries."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

import marrow.backbones  # noqa: F401  registers cifar_resnet20
from marrow.core import artifact
from marrow.core.errors import MarrowError
from marrow.core.models import resolve
from marrow.core.table import Table
from marrow.core.timm_backbone import TimmBackbone
from marrow.make.given import given
from marrow.tasks.classify import Classify
from marrow.tasks.embed import Embed

SMALL = {"channels": (8, 16, 24, 32), "stem_width": 8}
IMAGE = torch.linspace(0, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


def classifier(**arguments) -> Classify:
    torch.manual_seed(0)
    return Classify(TimmBackbone.create("resnet10t", img_size=32, **SMALL), **arguments).eval()


def test_a_name_stands_for_published_weights_unless_they_are_not_wanted():
    found = given("resnet50.a1_in1k", "--teacher")
    assert found.spec == {"backbone": "resnet50.a1_in1k", "pretrained": True}
    assert (found.kind, found.labels, found.name, found.source) == ("backbone", None, "resnet50.a1_in1k", "timm's hub")
    student = given("cifar_resnet20", "--student", pretrained=False, img_size=48)
    assert (student.spec, student.kind) == ({"backbone": "cifar_resnet20", "img_size": 48}, "backbone")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("resnt18", "--teacher: unknown model 'resnt18'; did you mean 'resnet18'"),
        ("resnt18.a1_in1k", "did you mean 'resnet18'"),
        ("resnet18.nope", "timm has no weights 'nope' for resnet18; there are a1_in1k, "),
        ("cifar_resnet56", "no published weights for cifar_resnet56. Give a file of yours: cifar_resnet56=FILE."),
        ("resnet18=nowhere.pth", "--teacher: no weight file at nowhere.pth"),
        ("resnt18=nowhere.pth", "unknown model 'resnt18'"),
        ("somebody/something", "no folder somebody/something. Give hf:somebody/something"),
    ],
)
def test_what_is_not_there_is_said_with_what_would_fit(text, sentence):
    with pytest.raises(MarrowError) as error:
        given(text, "--teacher")
    assert sentence in str(error.value)


def test_an_artifact_counts_as_a_task_only_when_it_gives_logits(tmp_path):
    task = classifier(classes=3)
    artifact.save(tmp_path / "task", task, labels=["a", "b", "c"])
    artifact.save(tmp_path / "backbone", task.backbone)
    artifact.save(tmp_path / "embed", Embed(task.backbone))
    artifact.save(tmp_path / "table", Table({"index": torch.arange(3)}))
    path = str(tmp_path / "task")
    found = given(path, "--teacher")
    assert (found.spec, found.kind, found.labels) == ({"artifact": path}, "task", ["a", "b", "c"])
    assert (found.name, found.source) == ("task", "an artifact")
    assert given(str(tmp_path / "backbone"), "--teacher").kind == "backbone"
    embed = given(str(tmp_path / "embed"), "--teacher")
    assert (embed.spec["part"], embed.kind) == ("backbone", "backbone")
    assert isinstance(resolve(embed.spec, {}, "teacher"), TimmBackbone)
    with pytest.raises(MarrowError, match="is a data artifact; one of a task or a backbone is needed"):
        given(str(tmp_path / "table"), "--teacher")


def test_a_file_is_a_task_when_its_classes_are_named_beside_it(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("cifar_resnet20", num_classes=3).eval()
    file = tmp_path / "net.pth"
    torch.save(net.state_dict(), file)
    text = f"cifar_resnet20={file}"
    assert given(text, "--teacher").spec == {"backbone": "cifar_resnet20", "weights": str(file)}
    assert given(text, "--teacher").kind == "backbone"
    (tmp_path / "net.labels.txt").write_text("cat\ndog\nowl\n", encoding="utf-8")
    found = given(text, "--teacher")
    assert (found.kind, found.labels, found.source) == ("task", ["cat", "dog", "owl"], str(file))
    model = resolve(found.spec, {}, "teacher").eval()
    assert model.labels == ["cat", "dog", "owl"]
    with torch.no_grad():
        torch.testing.assert_close(model({"image": IMAGE})["logits"], net(model.backbone.normalized(IMAGE)))


def test_names_that_do_not_fit_the_classifier_are_refused(tmp_path):
    net = timm.create_model("cifar_resnet20", num_classes=3)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    (tmp_path / "net.labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    with pytest.raises(MarrowError, match="2 class names stand beside .*, which has a classifier for 3 classes"):
        given(f"cifar_resnet20={tmp_path / 'net.safetensors'}", "--teacher")
    with pytest.raises(MarrowError, match="does not end as weights do"):
        given(f"cifar_resnet20={tmp_path / 'net.labels.txt'}", "--teacher")
    with pytest.raises(MarrowError, match=r"its net is not named. Give NAME=.*net\.safetensors"):
        given(str(tmp_path / "net.safetensors"), "--teacher")


def test_a_folder_as_timm_writes_it(tmp_path):
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, patch_size=8, depth=1).eval()
    names = {"label_names": ["cat", "dog", "owl"]}
    data = {"mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7), "interpolation": "bilinear"}
    save_for_hf(net, tmp_path / "net", model_config=names, data_config=data, safe_serialization=True)
    found = given(str(tmp_path / "net"), "--teacher")
    assert (found.kind, found.labels, found.name) == ("task", ["cat", "dog", "owl"], "net")
    model = resolve(found.spec, {}, "teacher").eval()
    assert model.labels == ["cat", "dog", "owl"]
    assert (model.input.size, model.input.mean, model.input.interpolation) == ((32, 32), (0.1, 0.2, 0.3), "bilinear")
    with torch.no_grad():
        torch.testing.assert_close(model({"image": IMAGE})["logits"], net(model.backbone.normalized(IMAGE)))
    larger = resolve(given(str(tmp_path / "net"), "--teacher", img_size=64).spec, {}, "teacher")
    assert larger.input.size == (64, 64) and larger.backbone.net.pos_embed.shape[1] == 65


def test_a_timm_folder_without_class_names_is_a_backbone(tmp_path):
    save_for_hf(timm.create_model("resnet10t", num_classes=3), tmp_path / "net")
    found = given(str(tmp_path / "net"), "--teacher")
    assert (found.kind, found.labels) == ("backbone", None)
    assert found.spec["weights"] == str(tmp_path / "net" / "pytorch_model.bin")
    assert resolve(found.spec, {}, "teacher").classifier[0].shape == (3, 512)


def test_a_classifier_that_is_not_one_layer_makes_no_task(tmp_path):
    net = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=2, depth=1, img_size=32)
    save_for_hf(net, tmp_path / "net", model_config={"label_names": ["cat", "dog"]}, safe_serialization=True)
    found = given(str(tmp_path / "net"), "--teacher")
    assert (found.kind, found.labels) == ("backbone", None)
    assert resolve(found.spec, {}, "teacher").classifier is None


def test_folders_that_hold_no_model_are_refused(tmp_path):
    with pytest.raises(MarrowError, match="is no model: it has neither artifact.json nor the config.json"):
        given(str(tmp_path), "--teacher")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t"}), encoding="utf-8")
    with pytest.raises(MarrowError, match="has no weights: none of model.safetensors, pytorch_model.bin"):
        given(str(tmp_path), "--teacher")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for change, said in (({"input_size": 3}, "input_size is 3; channels, height and width"),
                         ({"input_size": [3, "32", 32]}, "input_size is"), ({"input_size": [3, 10**9, 32]}, "input_size is"),
                         ({"pretrained_cfg": [1]}, "pretrained_cfg is no mapping"),
                         ({"model_args": ["depth"]}, "model_args is no mapping")):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet10t", **change}), encoding="utf-8")
        with pytest.raises(MarrowError, match=f"config.json: {said}"):
            given(str(tmp_path), "--teacher")
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(MarrowError, match="config.json cannot be read as JSON"):
        given(str(tmp_path), "--teacher")


def test_folders_of_transformers(tmp_path):
    pytest.importorskip("transformers")
    config = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}

    def written(**more) -> str:
        (tmp_path / "config.json").write_text(json.dumps({**config, **more}), encoding="utf-8")
        return str(tmp_path)

    named = given(written(id2label={"0": "cat", "1": "dog"}), "--teacher", img_size=64)
    backbone = {"backbone": f"hf:{tmp_path}", "img_size": 64}
    assert (named.kind, named.labels, named.name) == ("task", ["cat", "dog"], tmp_path.name)
    assert named.spec == {"task": "classify", "backbone": backbone, "classes": 2}
    unnamed = given(f"hf:{written(id2label={'0': 'LABEL_0', '1': 'LABEL_1'})}", "--teacher")
    assert (unnamed.kind, unnamed.labels, unnamed.spec) == ("backbone", None, {"backbone": f"hf:{tmp_path}"})
    assert given(written(architectures=["ViTModel"], id2label={"0": "cat", "1": "dog"}), "--teacher").kind == "backbone"
    with pytest.raises(MarrowError, match="'bert' is not among the image nets that work here"):
        given(written(model_type="bert"), "--teacher")
    # On the hub nothing is asked: what was never downloaded is a backbone until it is.
    assert given("hf:nobody/nothing-of-this-name", "--teacher").spec == {"backbone": "hf:nobody/nothing-of-this-name"}
