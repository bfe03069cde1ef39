"""An exported file before a runtime opens it: it is one file, of plain operators, and no tensor in it is beyond reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Iterator

from .errors import MarrowError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, TensorProto

LARGEST_FILE = 2**31 - 1  # what one protobuf message can hold
MOST_NODES = 100_000
LARGEST_TENSOR = 2**28  # numbers of an inner result for one image; 1 GiB of float32
DOMAINS = ("", "ai.onnx")
# They run graphs of their own, any number of times; nothing that marrow exports needs them.
REFUSED = ("Loop", "Scan", "If", "SequenceMap")


def check(file: Path) -> None:
    """Raise where a file reaches outside itself, names operators of others, or makes tensors that no image model has."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    where = str(file)
    if (size := file.stat().st_size) > LARGEST_FILE:
        raise MarrowError(f"the exported file has {size:,} bytes, more than {LARGEST_FILE:,}", where=where)
    try:
        model = onnx.load_model(file, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise MarrowError(f"this is no ONNX file ({error})", where=where) from None
    graph = model.graph
    if not (graph.node and graph.input and graph.output):
        raise MarrowError("this is no ONNX file with a graph", where=where)
    if len(graph.node) > MOST_NODES:
        raise MarrowError(f"the graph has {len(graph.node):,} nodes, more than {MOST_NODES:,}", where=where)
    if model.functions:
        raise MarrowError("the graph brings operators of its own", where=where)
    for node in graph.node:
        if node.domain not in DOMAINS or node.op_type in REFUSED:
            name = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            raise MarrowError(f"the operator '{name}' is not among those that are run here", where=where)
    for tensor in _tensors(graph):
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise MarrowError(f"the tensor '{tensor.name}' lies in another file; all belongs into one", where=where)
    _check_sizes(model, where)


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)


def _check_sizes(model: ModelProto, where: str) -> None:
    """Shapes are worked out without the weights, which are let go; a dimension without a number counts as one image."""
    import onnx

    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > 1024:
            tensor.ClearField("raw_data")
    try:
        shaped = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, MemoryError) as error:
        raise MarrowError(
            f"its shapes do not fit together ({' '.join(str(error).split())[:300]})", where=where
        ) from None
    for value in (*shaped.value_info, *shaped.input, *shaped.output):
        count = 1
        for dim in value.type.tensor_type.shape.dim:
            count *= max(1, dim.dim_value)
        if count > LARGEST_TENSOR:
            raise MarrowError(f"'{value.name}' would have {count:,} numbers for one image, more than "
                              f"{LARGEST_TENSOR:,}", where=where)  # fmt: skip
