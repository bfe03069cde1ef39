"""int8 files: what is integer in them, how far they are from the task, and when they are refused."""

import logging

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from marrow.core.errors import MarrowError, ParityError
from marrow.core.loader import Data
from marrow.ship import graph
from marrow.ship.cpu import saturates
from marrow.ship.int8 import Int8, quantize, worth_it


@pytest.fixture(scope="module")
def exported(classifier, engine, streams, tmp_path_factory):
    """name -> (meta, the graph)."""
    made = {}

    def export(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            meta = Int8(calibration_images=64, parity_images=128).export(
                {"model": classifier(name)}, streams, engine, folder
            )
            assert [f.name for f in folder.iterdir()] == ["model.onnx"]
            made[name] = meta, onnx.load(folder / "model.onnx")
        return made[name]

    return export


def sources(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


def test_small_and_close_to_the_task(exported):
    meta, _ = exported("resnet10t")
    assert meta["precision"] == "int8" and meta["parity"]["n"] == 128 and len(meta["calibration"]) > 8
    assert meta["parity"]["sqnr_db"] > 25 and meta["parity"]["agreement"] > 0.97
    assert meta["bytes_ratio"] < 0.3


def test_activations_are_uint8_and_weights_int8_per_channel(exported):
    _, model = exported("resnet10t")
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    made_by = sources(model)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    assert len(convolutions) > 10
    for node in convolutions:
        activation, weight = (made_by[node.input[i]] for i in (0, 1))
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert stored[activation.input[2]].dtype == np.uint8
        values, scales = stored[weight.input[0]], stored[weight.input[1]]
        assert values.dtype == np.int8 and scales.shape == (len(values),)


def test_no_weight_is_stored_twice_or_left_in_float(exported):
    _, model = exported("resnet10t")
    used = {name for node in model.graph.node for name in node.input}
    for tensor in model.graph.initializer:
        assert tensor.name in used
        assert tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) <= 96, tensor.name  # scales, mean, std


def test_normalisation_and_products_of_activations_stay_in_float(exported):
    _, model = exported("vit_tiny_patch16_224")
    made_by = sources(model)
    integer = [
        n for n in model.graph.node if any(i in made_by and made_by[i].op_type == "DequantizeLinear" for i in n.input)
    ]
    assert {n.op_type for n in integer} - {"QuantizeLinear"} <= {"Conv", "MatMul", "Gemm", "Reshape", "Transpose"}
    products = [n for n in model.graph.node if n.op_type == "MatMul"]
    stored = [n for n in products if n in integer]
    assert (
        len(stored) == 8 and len(products) == 12
    )  # two blocks: qkv, proj, fc1, fc2 with weights; q k and attention v without


def test_which_nodes_are_worth_it():
    def node(kind: str, *inputs: str) -> onnx.NodeProto:
        return helper.make_node(kind, inputs, [f"{kind}({','.join(inputs)})"], name=f"{kind}({','.join(inputs)})")

    conv = node("Conv", "x", "w")
    relu = node("Relu", *conv.output)
    add = node("Add", *relu.output, *conv.output)
    mixed = node("Add", *relu.output, "x")
    product = node("MatMul", *mixed.output, "w")
    bias = node("Add", *product.output, "w")
    attention = node("MatMul", *bias.output, *product.output)
    nodes = [node("Mul", "x", "w"), conv, relu, add, mixed, product, bias, attention]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [], [], [helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])])
    )
    assert worth_it(model) == [n.name for n in (conv, relu, add, product)]


def test_without_vnni_weights_get_seven_bits(classifier, streams, engine, tmp_path):
    assert saturates("x86_64", ("avx2", "fma")) and saturates("AMD64", ())
    assert not saturates("x86_64", ("avx2", "avx_vnni")) and not saturates("x86_64", ("avx512_vnni",))
    assert not saturates("aarch64", ("asimddp",))
    task = graph.for_export(classifier("resnet10t"))
    graph.write(graph.trace(task), tmp_path / "fp32.onnx", task, precision="fp32", licence="")
    images = [b["image"] for b in engine.batches(streams.streams["calibration"], task.input, 64)]
    for seven_bits, most in ((True, 64), (False, 127)):
        model = quantize(tmp_path / "fp32.onnx", tmp_path, images, reduce_range=seven_bits)
        weights = [numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == TensorProto.INT8]
        assert max(int(np.abs(w.astype(int)).max()) for w in weights) == most


def test_one_source_for_both_streams_is_shared_out_in_silence(classifier, engine, digits, tmp_path, capfd, caplog):
    source = digits(0.4, 0.45)
    meta = Int8(calibration_images=10_000).export(
        {"model": classifier("vit_tiny_patch16_224")}, Data({"calibration": source, "parity": source}), engine, tmp_path
    )
    assert 0 < meta["parity"]["n"] <= len(source) - len(source) // 2
    assert capfd.readouterr() == ("", "") and not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_no_image_left_for_the_check(classifier, engine, digits, tmp_path):
    from marrow.data.select import by_index

    one = by_index(digits(0.4, 0.45), [0], "data")
    with pytest.raises(MarrowError, match="1 images for calibration leave none for the check"):
        Int8().export({"model": classifier("resnet10t")}, Data({"calibration": one, "parity": by_index(one, [0, 0], "data")}),
                      engine, tmp_path)  # fmt: skip


def test_a_net_that_eight_bits_destroy_is_refused(classifier, engine, streams, tmp_path):
    """One channel a million times larger than the others sets the range; the head does not look at it."""
    task = classifier("resnet10t")
    with torch.no_grad():
        last = [m for m in task.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)][-1]
        last.weight[0] = 1e6
        task.head.weight[:, 0] = 0.0
    with pytest.raises(ParityError, match=r"loses too much: -?\d+\.\d dB .* of \d+ other images keep their answer"):
        Int8(calibration_images=32, parity_images=32).export({"model": task}, streams, engine, tmp_path)
