"""Names of subgraphs: none hides a name of the graphs around it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxptq.graph.nested import fresh, inner, protos


def unshadow(graph: onnx.GraphProto) -> None:
    """Rename what a subgraph defines under a name of an outer graph: onnxruntime refuses it in some orders of nodes."""
    if any(True for node in graph.node for _ in inner(node)):
        _unshadow(graph, {}, set(_defined(graph)), {name for part in protos(graph) for name in _defined(part)})


def _unshadow(graph: onnx.GraphProto, renamed: Mapping[str, str], outer: set[str], names: set[str]) -> None:
    """Apply ``renamed`` to the reads of a graph; give the names in its subgraphs new ones where ``outer`` has them."""
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        for part in inner(node):
            own = dict.fromkeys(_defined(part))
            new = {name: fresh(name, names) for name in own if name in outer}
            _rename_definitions(part, new)
            inside = {name: to for name, to in renamed.items() if name not in own} | new
            for value in part.output:
                value.name = inside.get(value.name, value.name)
            _unshadow(part, inside, outer | {new.get(name, name) for name in own}, names)


def _defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that a graph gives to tensors of its own."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _rename_definitions(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    values = (sparse.values for sparse in graph.sparse_initializer)
    for entry in (*graph.input, *graph.initializer, *graph.value_info, *values):
        entry.name = new.get(entry.name, entry.name)
    for node in graph.node:
        for index, name in enumerate(node.output):
            node.output[index] = new.get(name, name)
