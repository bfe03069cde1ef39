"""ONNX files that read other files, bring operators of their own, or make more than any memory holds."""

import hashlib
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from marrow.core.artifact import Artifact, save

from .inputs import refusal, rewrite

INPUT = {"modality": "image", "size": [4, 4], "channels": 3, "range": [0.0, 1.0], "mean": [0.5], "std": [0.5],
         "resize": "squash", "crop_pct": 1.0, "interpolation": "bilinear"}  # fmt: skip
FACTS = {"runtime": "onnxruntime", "precision": "fp32", "task": "classify", "input": INPUT, "inputs": ["image"],
         "outputs": ["logits"], "calibration": None, "parity": {}}  # fmt: skip
IMAGE = {"image": torch.zeros(2, 3, 4, 4)}


def shape(*values):
    return helper.make_tensor("s", TensorProto.INT64, [len(values)], values)


def graph(nodes, tensors=(), *, domains=(), inputs=("image",), outputs=("logits",), dims=("b", 3, 4, 4)):
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, dims) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        list(tensors),
    )
    opsets = [helper.make_opsetid(d, v) for d, v in (("", 20), *domains)]
    model = helper.make_model(made, opset_imports=opsets)
    model.ir_version = 10
    return model


def answered(*before, tensors=(), **more):
    """The nodes, then a sum of what they make and the image, flattened to (B, 48)."""
    last = [helper.make_node("ReduceMax", ["c"], ["m"], keepdims=0), helper.make_node("Add", ["image", "m"], ["a"]),
            helper.make_node("Flatten", ["a"], ["logits"])]  # fmt: skip
    return graph([*before, *last], tensors, **more)


def artifact(folder, model, **facts):
    data = model if isinstance(model, bytes) else model.SerializeToString()
    return save(folder, {**FACTS, **facts}, fill=lambda place: (place / "model.onnx").write_bytes(data))


def run(folder):
    return Artifact.open(folder).load()(IMAGE)


def outside():
    tensor = helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0])
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")
    return tensor


def hidden():
    tensor = outside()
    return helper.make_node("Constant", [], ["c"], value=tensor)


def own():
    model = answered(helper.make_node("Mine", ["image"], ["c"], domain="mine"), domains=[("mine", 1)])
    body = [helper.make_node("Identity", ["x"], ["y"])]
    model.functions.append(helper.make_function("mine", "Mine", ["x"], ["y"], body, [helper.make_opsetid("", 20)]))
    return model


def loop():
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, [])],
    )
    return answered(
        helper.make_node("Loop", ["n", "t"], [], body=body),
        helper.make_node("Identity", ["image"], ["c"]),
        tensors=[
            helper.make_tensor("n", TensorProto.INT64, [], [2**62]),
            helper.make_tensor("t", TensorProto.BOOL, [], [True]),
        ],
    )


def bomb():
    model = answered(helper.make_node("Identity", ["image"], ["c"]))
    helper.set_model_props(model, {f"marrow.{i}": "x" * 1000 for i in range(20_000)})
    return model


GOOD = answered(helper.make_node("Identity", ["image"], ["c"]))
NODES = [helper.make_node("Identity", ["image"], ["n0"])]
NODES += [helper.make_node("Identity", [f"n{i}"], [f"n{i + 1}"]) for i in range(100_001)]
FILES = {
    "not ONNX": (lambda: b"not a graph", "no ONNX file"),
    "empty": (lambda: b"", "no ONNX file with a graph"),
    "cut off": (lambda: GOOD.SerializeToString()[:-20], "no ONNX file|cannot open"),
    "a model without a graph": (lambda: onnx.ModelProto().SerializeToString(), "no ONNX file with a graph"),
    "weights in another file": (lambda: answered(tensors=[outside()]), "lies in another file"),
    "a constant in another file": (lambda: answered(hidden()), "lies in another file"),
    "a custom operator": (
        lambda: answered(helper.make_node("Evil", ["image"], ["c"], domain="evil"), domains=[("evil", 1)]),
        "the operator 'evil.Evil' is not among",
    ),
    "a context of a provider": (
        lambda: answered(helper.make_node("EPContext", ["image"], ["c"], domain="com.microsoft", ep_cache_context="/etc/passwd"),
                         domains=[("com.microsoft", 1)]),
        "the operator 'com.microsoft.EPContext'",
    ),
    "operators of its own": (own, "brings operators of its own"),
    "an unknown operator": (lambda: answered(helper.make_node("NoSuch", ["image"], ["c"])), "cannot open|do not fit"),
    "an endless loop": (loop, "the operator 'Loop'"),
    "40 GB from two numbers": (
        lambda: answered(helper.make_node("ConstantOfShape", ["s"], ["c"]), tensors=[shape(100_000, 100_000)]),
        "would have 10,000,000,000 numbers",
    ),
    "40 GB by tiling": (
        lambda: answered(helper.make_node("Tile", ["k", "s"], ["c"]), tensors=[
            helper.make_tensor("k", TensorProto.FLOAT, [1, 1], [1.0]), shape(100_000, 100_000)]),
        "would have 10,000,000,000 numbers",
    ),
    "40 GB by expanding": (
        lambda: answered(helper.make_node("Expand", ["k", "s"], ["c"]), tensors=[
            helper.make_tensor("k", TensorProto.FLOAT, [1, 1], [1.0]), shape(100_000, 100_000)]),
        "would have 10,000,000,000 numbers",
    ),
    "an input of 10**12": (lambda: answered(helper.make_node("Identity", ["image"], ["c"]), dims=["b", 10**4, 10**4, 10**4]),
                           "would have 1,000,000,000,000 numbers"),
    "100,000 nodes": (lambda: graph([*NODES, helper.make_node("Flatten", ["n100002"], ["logits"])]), "the graph has 100,003 nodes"),
    "another input": (lambda: graph([helper.make_node("Flatten", ["picture"], ["logits"])], inputs=["picture"]), "agree on the inputs"),
    "another output": (lambda: graph([helper.make_node("Flatten", ["image"], ["x"])], outputs=["x"]), "agree on the outputs"),
    "one more input": (lambda: graph([helper.make_node("Add", ["image", "b"], ["logits"])], inputs=["image", "b"]), "agree on the inputs"),
    "another channel count": (lambda: graph([helper.make_node("Flatten", ["image"], ["logits"])], dims=["b", 1, 4, 4]), "cannot run"),
    "an answer of another type": (lambda: graph([helper.make_node("Cast", ["image"], ["logits"], to=TensorProto.DOUBLE)]),
                                  "cannot open|not one float32 answer|do not fit"),
    "an answer for no image": (lambda: graph([helper.make_node("ReduceMax", ["image"], ["logits"], keepdims=0)]), "not one float32 answer"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_are_refused(tmp_path, name):
    made, said = FILES[name]
    artifact(tmp_path / "made", made())
    refusal(lambda: run(tmp_path / "made"), said)


def test_the_good_one_runs_and_metadata_is_not_read(tmp_path):
    for name, model in (("good", GOOD), ("bomb", bomb())):
        artifact(tmp_path / name, model)
        np.testing.assert_array_equal(run(tmp_path / name)["logits"], np.zeros((2, 48), np.float32))


@pytest.mark.parametrize("fact", ["runtime", "precision", "task", "inputs", "outputs", "calibration", "parity"])
@pytest.mark.parametrize("value", [3, [], [[]], "", "x" * 10_000, {"a": 1}, ["image", "image"]])
def test_facts_of_a_wrong_type(tmp_path, fact, value):
    if (fact, type(value)) == ("parity", dict):
        pytest.skip("it fits")
    artifact(tmp_path / "made", GOOD)
    rewrite(tmp_path / "made", lambda m: m["runtime"].update({fact: value}))
    refusal(lambda: run(tmp_path / "made"), f"runtime.{fact} is")


@pytest.mark.parametrize("task", ["../evil", "os.path", "nothing", "supervised"])
def test_tasks_that_are_none(tmp_path, task):
    runner = artifact(tmp_path / "made", GOOD, task=task).load()
    refusal(runner.metric, "unknown task")


def test_a_file_put_in_its_place_is_noticed(tmp_path):
    made = artifact(tmp_path / "made", GOOD)
    (made.path / "model.onnx").write_bytes(answered(tensors=[outside()]).SerializeToString())
    refusal(lambda: run(made.path), "instead of")
    data = (made.path / "model.onnx").read_bytes()
    meta = json.loads((made.path / "artifact.json").read_text())
    meta["files"]["model.onnx"] = [len(data), hashlib.sha256(data).hexdigest()]
    (made.path / "artifact.json").write_text(json.dumps(meta))
    refusal(lambda: run(made.path), "lies in another file")
