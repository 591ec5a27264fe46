"""Reduce a graph to the nodes that some of its tensors need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors a node reads, including outer tensors that its subgraphs read."""
    names = dict.fromkeys(name for name in node.input if name)
    for attribute in node.attribute:
        graphs: Iterable[onnx.GraphProto] = [attribute.g, *attribute.graphs] if attribute.type in _GRAPHS else ()
        for graph in graphs:
            inner = {o for n in graph.node for o in n.output} | {
                held.name for held in (*graph.initializer, *graph.input)
            }
            used = [name for n in graph.node for name in reads(n)]
            names |= dict.fromkeys(name for name in used if name not in inner)
    return list(names)


def reduced(proto: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
    """Change ``proto`` to have these outputs, and drop nodes, constants and inputs they do not need."""
    graph = proto.graph
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needed: set[str] = set()
    used: set[int] = set()
    stack = [output.name for output in outputs]
    while stack:
        name = stack.pop()
        if name in needed:
            continue
        needed.add(name)
        if name in maker and maker[name] not in used:
            used.add(maker[name])
            stack.extend(reads(graph.node[maker[name]]))
    kept = [node for index, node in enumerate(graph.node) if index in used]
    del graph.node[:]
    graph.node.extend(kept)
    for held in (graph.initializer, graph.input):
        for index in range(len(held) - 1, -1, -1):
            if held[index].name not in needed:
                del held[index]
    del graph.value_info[:]
    del graph.output[:]
    graph.output.extend(outputs)
    return proto


def with_shapes(proto: onnx.ModelProto, names: Sequence[str]) -> onnx.ModelProto:
    """Change ``proto`` to output only the shapes of some tensors, in order."""
    shapes = [f"onnxptq_shape:{name}" for name in names]
    proto.graph.node.extend(
        onnx.helper.make_node("Shape", [name], [shape], shape) for name, shape in zip(names, shapes, strict=True)
    )
    return reduced(proto, [onnx.helper.make_empty_tensor_value_info(shape) for shape in shapes])


_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
