"""Subgraphs: the branches of If, the bodies of Loop and Scan."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_graphsurgeon as gs

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)


def inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The direct subgraphs of a node."""
    for attribute in node.attribute:
        if attribute.type in _GRAPHS:
            yield from [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def protos(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and all subgraphs in it, as messages."""
    yield graph
    for node in graph.node:
        for part in inner(node):
            yield from protos(part)


def bodies(node: gs.Node) -> dict[str, gs.Graph]:
    """The direct subgraphs of a node, by attribute."""
    return {key: held for key, held in node.attrs.items() if isinstance(held, gs.Graph)}


def graphs(graph: gs.Graph) -> Iterator[gs.Graph]:
    """A graph and all subgraphs in it."""
    yield graph
    for node in graph.nodes:
        for part in bodies(node).values():
            yield from graphs(part)


def nodes(graph: gs.Graph) -> Iterator[gs.Node]:
    """All nodes of a graph, each followed by those of its subgraphs."""
    for node in graph.nodes:
        yield node
        for part in bodies(node).values():
            yield from nodes(part)


def taken(graph: gs.Graph) -> set[str]:
    """Names of all nodes and tensors of a graph and its subgraphs."""
    return {name for part in graphs(graph) for name in (*part.tensors(), *(node.name for node in part.nodes))}


def hoist(graph: gs.Graph, proto: onnx.GraphProto) -> None:
    """Store constants that subgraphs share with ``graph`` once, in the outer graph, where subgraphs can read them.

    ``proto`` is the export of ``graph``.
    """
    held = {t.name: t._values for t in graph.tensors().values() if isinstance(t, gs.Constant)}
    for node, written in zip(graph.nodes, proto.node, strict=True):
        for part, body in zip(bodies(node).values(), inner(written), strict=True):
            own = {t.name: t._values for t in part.tensors().values() if isinstance(t, gs.Constant)}
            kept = [t for t in body.initializer if own[t.name] is not held.get(t.name)]
            del body.initializer[:]
            body.initializer.extend(kept)
            hoist(part, body)


def fence(graph: gs.Graph) -> None:
    """Let subgraphs read computed outer tensors through an Identity of their own.

    Then all other readers of a tensor are nodes of its own graph.
    """
    _fence(graph, taken(graph))


def _fence(graph: gs.Graph, names: set[str]) -> None:
    for node in graph.nodes:
        for part in bodies(node).values():
            _fence(part, names)
            local = {id(t) for n in part.nodes for t in n.outputs} | {id(t) for t in part.inputs}
            inside: dict[int, gs.Variable] = {}
            gates: list[gs.Node] = []
            for reader in part.nodes:
                if reader.op == "Identity":
                    continue
                for tensor in reader.inputs:
                    outside = not (isinstance(tensor, gs.Constant) or tensor.is_empty() or id(tensor) in local)
                    if outside and id(tensor) not in inside:
                        name = fresh(f"{tensor.name}_inside", names)
                        inside[id(tensor)] = gs.Variable(name, dtype=tensor.dtype, shape=tensor.shape)
                        gates.append(gs.Node("Identity", name=name, inputs=[tensor], outputs=[inside[id(tensor)]]))
                if any(id(tensor) in inside for tensor in reader.inputs):
                    reader.inputs = [inside.get(id(tensor), tensor) for tensor in reader.inputs]
            part.nodes = [*gates, *part.nodes]


def fresh(base: str, names: set[str]) -> str:
    """``base``, numbered if it is in ``names``; adds it to ``names``."""
    name, number = base, 1
    while name in names:
        name, number = f"{base}_{number}", number + 1
    names.add(name)
    return name
