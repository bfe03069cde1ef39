"""Spec trees that ask for code, for files, for a network, or for more than any machine has."""

import importlib.util
import json
import socket

import pytest

from marrow.core.spec import build, meta

from .inputs import NARROW, opened, refusal, rewrite, saved

NET = {"source": "timm:resnet10t", "args": {k: list(v) if isinstance(v, tuple) else v for k, v in NARROW.items()}}
TASK = {"task": "classify", "backbone": NET, "classes": 3}


def timm(name="resnet10t", **args):
    return {"source": f"timm:{name}", "args": args}


def drop(**values):
    return {"edit": "drop_blocks", "values": {"stage": "layer3", "count": 1, **values}, "of": [NET]}


def prune(**values):
    return {"edit": "prune", "values": {"channels": [], "tensors": {}, "attributes": {}, **values}, "of": [NET]}


def nested(levels):
    spec = TASK
    for _ in range(levels):
        spec = {"part": "backbone", "of": [spec]}
    return spec


SPECS = {
    "pretrained": (timm(pretrained=True), "'pretrained' has no place"),
    "weights": (timm(weights="/etc/passwd"), "'weights' has no place"),
    "checkpoint_path": (timm(checkpoint_path="/etc/passwd"), "'checkpoint_path' is not an argument"),
    "cache_dir": (timm(cache_dir="/tmp"), "'cache_dir' is not an argument"),
    "pretrained_cfg": (timm(pretrained_cfg={"url": "https://example.invalid"}), "'pretrained_cfg' is not an argument"),
    "overlay": (timm(pretrained_cfg_overlay={"file": "/etc/passwd"}), "'pretrained_cfg_overlay' is not an argument"),
    "device": (timm("vit_tiny_patch16_224", device="cpu"), "'device' is not an argument"),
    "dtype": (timm("vit_tiny_patch16_224", dtype="float64"), "'dtype' is not an argument"),
    "where": (timm(where="x"), "'where' has no place"),
    "name": (timm(name="x") | {"args": {"name": "x"}}, "cannot be built"),
    "hub": ({"source": "hf-hub:someone/net", "args": {}}, "unknown source"),
    "local dir": ({"source": "local-dir:/etc", "args": {}}, "unknown source"),
    "url": ({"source": "https://example.invalid/x", "args": {}}, "unknown source"),
    "timm of a hub": (timm("hf-hub:someone/net"), "unknown backbone"),
    "timm of a folder": (timm("local-dir:/etc"), "unknown backbone"),
    "an address after a name": (timm("resnet18.x:hf-hub/net"), "unknown backbone"),
    "a path after a name": (timm("resnet18.x/resnet50"), "unknown backbone"),
    "not registered": (timm("os.system"), "unknown backbone"),
    "empty source": ({"source": "", "args": {}}, "unknown source"),
    "args of another type": ({"source": "timm:resnet10t", "args": [1]}, "arguments are a mapping"),
    "args null": ({"source": "timm:resnet10t", "args": None}, "arguments are a mapping"),
    "a task by path": ({"task": "../../evil"}, "unknown task"),
    "a task by dots": ({"task": "os.path"}, "unknown task"),
    "a task that is a method": ({"task": "supervised"}, "unknown task"),
    "a task of a module's name": ({"task": "__init__"}, "unknown task"),
    "a task without model": ({"task": "classify", "classes": 3}, "needs backbone"),
    "a task on a number": ({**TASK, "backbone": 3}, "a model is needed, got 3"),
    "a task on a task": ({**TASK, "backbone": TASK}, "cannot be built|needed"),
    "classes as text": ({**TASK, "classes": "3"}, "takes int"),
    "classes as list": ({**TASK, "classes": [3]}, "takes int"),
    "classes negative": ({**TASK, "classes": -3}, "-3 classes"),
    "classes 10**12": ({**TASK, "classes": 10**12}, "beyond any net"),
    "unknown argument": ({**TASK, "exec": "x"}, "unknown key 'exec'"),
    "img_size 10**6": (timm(img_size=10**6), "beyond|pixels"),
    "img_size negative": (timm(img_size=-1), "pixels"),
    "img_size zero": (timm(img_size=0), "pixels"),
    "img_size text": (timm(img_size="32"), "pixels"),
    "img_size list": (timm(img_size=[32, 32, 32]), "pixels"),
    "img_size true": (timm(img_size=True), "pixels"),
    "img_size nan": (timm(img_size=float("nan")), "NaN is no number"),
    "channels 10**9": (timm(channels=[10**9] * 4), "beyond any net"),
    "channels negative": (timm(channels=[-8, 8, 8, 8]), "cannot be built"),
    "channels text": (timm(channels="abc"), "does not take"),
    "channels mapping": (timm(channels={"a": 1}), "does not take|cannot be built"),
    "in_chans zero": (timm(in_chans=0), "takes 0 channels"),
    "65,536 layers": (timm(layers=[2**16, 1, 1, 1]), "more than 10,000 modules"),
    "65,536 blocks": (timm("vit_tiny_patch16_224", depth=2**16), "more than 10,000 modules|cannot be built"),
    "65,536 heads": (timm("vit_tiny_patch16_224", num_heads=2**16), "cannot be built"),
    "a long list of layers": (timm(layers=[1000] * 1000), "more than 10,000 modules|cannot be built"),
    "a window of its own size": (timm("swin_tiny_patch4_window7_224", img_size=8192, window_size=2048), "."),
    "mean of text": (timm(mean="abc"), "a number for each channel"),
    "mean of none": (timm(mean=[]), "a number for each channel"),
    "std zero": (timm(std=[0, 0, 0]), "a number for each channel"),
    "crop to nothing": (timm(crop_pct=1e-300), "from 0.1 to 1"),
    "interpolation": (timm(interpolation=3), "the name of a filter"),
    "act_layer": (timm(act_layer="__import__('os')"), "cannot be built"),
    "block": (timm(block="os.system"), "cannot be built"),
    "edit of no kind": ({"edit": "../evil", "values": {}, "of": [NET]}, "unknown edit"),
    "edit that is a module": ({"edit": "slicing", "values": {}, "of": [NET]}, "unknown edit"),
    "edit of nothing": ({**drop(), "of": []}, "cannot be built"),
    "edit of two": ({**drop(), "of": [NET, NET]}, "cannot be built"),
    "edit of a hundred": ({**drop(), "of": [NET] * 100}, "an edit of 100 models"),
    "edit values missing": ({**drop(), "values": {"stage": "layer3"}}, "lacks 'count'"),
    "edit count text": (drop(count="1"), "is not what the edit keeps as 'count'"),
    "edit count true": (drop(count=True), "is not what the edit keeps as 'count'"),
    "edit count list": (drop(count=[1]), "is not what the edit keeps as 'count'"),
    "edit count huge": (drop(count=10**30), "beyond any net"),
    "edit count negative": (drop(stage="layer3", count=-1) | {"of": [timm("resnet18")]}, "is outside"),
    "edit stage list": (drop(stage=["layer3"]), "is not what the edit keeps as 'stage'"),
    "edit stage elsewhere": (drop(stage="__class__"), "no stage"),
    "channels not text": (prune(channels=[[0, 1]]), "is not what the edit keeps as 'channels'"),
    "channels out of range": (prune(channels=["0-99999"], tensors={"net.conv1.0.weight": [0]}), "are no channels|no tensor"),
    "channels backwards": (prune(channels=["3 1"], tensors={"net.bn1.weight": [0]}), "are no channels"),
    "channels none": (prune(channels=[""], tensors={"net.bn1.weight": [0]}), "is left"),
    "channels huge list": (prune(channels=["0"] * 100_000, tensors={"net.bn1.weight": [10**6]}), "names set"),
    "set negative": (prune(channels=["0"], tensors={"net.bn1.weight": [-1]}), "names set -1"),
    "tensor elsewhere": (prune(tensors={"__class__.x": [None]}), "no tensor"),
    "tensor of a method": (prune(channels=["0"], tensors={"net.forward": [0]}), "no tensor"),
    "attribute not listed": (prune(attributes={"net": {"forward": 1}}), "is not for an edit to set"),
    "attribute dunder": (prune(attributes={"": {"__class__": 1}}), "is not for an edit to set"),
    "attribute of text": (prune(attributes={"net": {"num_features": "8"}}), "is no number"),
    "attribute of no module": (prune(attributes={"net.x": {"num_features": 8}}), "is not for an edit to set"),
    "attributes not a mapping": (prune(attributes={"net": 3}), "is not what the edit keeps as 'attributes'"),
    "part that is none": ({"part": "__dict__", "of": [TASK]}, "has no part"),
    "part of nothing": ({"part": "backbone", "of": []}, "not a model spec"),
    "part of text": ({"part": "backbone", "of": ["x"]}, "not a model spec"),
    "unknown node": ({"import": "os"}, "not a model spec"),
    "source not text": ({"source": 3}, "not a model spec"),
    "nested 100 levels": (nested(90), "has no part"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return saved("task", tmp_path_factory.mktemp("made") / "task")


@pytest.fixture
def offline():
    """Nothing may be asked of a network: the test fails where a name is looked up or a connection made."""
    asked, kept = [], (socket.socket.connect, socket.getaddrinfo)
    socket.socket.connect = lambda *a: asked.append(a) or kept[0](*a)
    socket.getaddrinfo = lambda *a, **k: asked.append(a) or kept[1](*a, **k)
    yield asked
    socket.socket.connect, socket.getaddrinfo = kept
    assert not asked


@pytest.mark.parametrize("name", SPECS)
def test_specs_are_refused(folder, offline, name):
    spec, said = SPECS[name]
    kept = (folder / "artifact.json").read_bytes()
    try:
        rewrite(folder, lambda m: m.update(spec=spec))
        refusal(lambda: opened(folder), said)
    finally:
        (folder / "artifact.json").write_bytes(kept)


def test_a_tree_of_a_thousand_levels(folder, tmp_path):
    text = (folder / "artifact.json").read_text()
    spec = '{"part": "backbone", "of": [' * 1000 + "null" + "]}" * 1000
    meta = json.loads(text) | {"spec": "HERE"}
    (tmp_path / "artifact.json").write_text(json.dumps(meta).replace('"HERE"', spec))
    refusal(lambda: opened(tmp_path), "levels deep|is not JSON")


def test_the_ones_that_mean_no_harm_are_built():
    for spec in (
        NET,
        TASK,
        drop(stage="layer3") | {"of": [timm("resnet18")]},
        prune(),
        {"part": "backbone", "of": [TASK]},
    ):
        build(spec)


@pytest.mark.parametrize(
    ("name", "config", "said"),
    [
        ("bert", {}, "not among the image nets"),
        ("vit", {"num_hidden_layers": 2**16}, "more than 10,000 modules|cannot build"),
        ("vit", {"num_hidden_layers": 10**12}, "beyond any net"),
        ("vit", {"hidden_size": -1}, "cannot be built|cannot build"),
        ("vit", {"auto_map": {"AutoModel": "x--y.Z"}}, "'auto_map' has no place"),
        ("vit", {"_name_or_path": "someone/net"}, "'_name_or_path' has no place"),
        ("vit", {"quantization_config": {}}, "'quantization_config' has no place"),
        ("vit", [], "."),
        ("vit", {"image_size": "x"}, "cannot"),
    ],
)
def test_nets_of_transformers(offline, name, config, said):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("no transformers on this machine")
    input = {"size": [32, 32], "channels": 3, "mean": [0, 0, 0], "std": [1, 1, 1], "resize": "squash", "crop_pct": 1.0,
             "interpolation": "bilinear"}  # fmt: skip
    build(
        {
            "source": "hf:resnet",
            "args": {"config": {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1]}, **input},
        }
    )
    refusal(lambda: meta({"source": f"hf:{name}", "args": {"config": config, **input}}), said)
