"""Gates of channels in a graph, said in the operators that runtimes compute on integers: means over maps, and products."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto


def plain_gates(model: ModelProto) -> ModelProto:
    """Mean over a map, as GlobalAveragePool; a factor that was blown up to its map's size, as it was before.

    Around an Expand or a ReduceMean, int8 files leave integers for a whole map: without them those of ECA-ResNet-18 take
    9.1 ms instead of 11.3. Products stay the same to the bit. The graph still has its inner shapes, which are asked here.
    """
    graph = model.graph
    shapes = _shapes(graph)
    made = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Mul":
            for place, other in ((0, 1), (1, 0)):
                factor, whole = made.get(node.input[place]), shapes.get(node.input[other])
                if factor is None or factor.op_type != "Expand" or whole is None:
                    continue
                if shapes.get(factor.output[0]) == whole:  # else the product would come out smaller
                    node.input[place] = factor.input[0]
        elif node.op_type == "ReduceMean" and _over_map(node, graph, shapes):
            node.op_type = "GlobalAveragePool"
            del node.input[1:], node.attribute[:]
    _without_unread(graph)
    return model


def _over_map(node: NodeProto, graph: GraphProto, shapes: dict[str, tuple]) -> bool:
    """Whether it is the mean over the rows and columns of maps, and who reads it does not ask for its rank."""
    from onnx import numpy_helper

    axes = next((i for i in graph.initializer if len(node.input) > 1 and i.name == node.input[1]), None)
    if axes is None or len(shapes.get(node.input[0], ())) != 4:
        return False
    keeps = next((a.i for a in node.attribute if a.name == "keepdims"), 1)
    readers = [n for n in graph.node if node.output[0] in n.input]
    rank_free = bool(keeps) or all(n.op_type == "Reshape" for n in readers)
    answers = node.output[0] in {o.name for o in graph.output}
    return sorted(a % 4 for a in numpy_helper.to_array(axes).tolist()) == [2, 3] and rank_free and not answers


def _shapes(graph: GraphProto) -> dict[str, tuple]:
    """Sizes, or their names where they are free, of every tensor for which all are known."""
    found = {}
    for info in (*graph.value_info, *graph.input):
        sizes = tuple(d.dim_param or d.dim_value for d in info.type.tensor_type.shape.dim)
        if all(sizes):
            found[info.name] = sizes
    return found


def _without_unread(graph: GraphProto) -> None:
    """Take out the nodes and constants that nothing reads any more."""
    kept = {output.name for output in graph.output}
    for node in reversed(graph.node):  # they stand in the order in which they are computed
        if kept.intersection(node.output):
            kept.update(node.input)
    for node in [n for n in graph.node if not kept.intersection(n.output)]:
        graph.node.remove(node)
    for constant in [i for i in graph.initializer if i.name not in kept]:
        graph.initializer.remove(constant)
