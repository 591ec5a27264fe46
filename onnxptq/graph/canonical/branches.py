"""Replace each If whose condition is constant by the branch it takes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.flow import standard
from onnxptq.graph.dataflow.folding import Facts
from onnxptq.graph.dataflow.partial_values import is_complete
from onnxptq.graph.model import Model
from onnxptq.graph.nested import bodies, fresh, graphs


def settle_branches(model: Model, facts: Facts) -> bool:
    """Inline the branch of every If of the main graph with a known condition; return whether there was one."""
    found = False
    for node in list(model.graph.nodes):
        if node.op != "If" or not standard(node):
            continue
        condition = facts.values.get(node.inputs[0].name)
        if condition is None or not is_complete(condition) or condition.size != 1:
            continue
        taken = node.attrs["then_branch" if bool(np.asarray(condition).reshape(-1)[0]) else "else_branch"]
        _inline(model, node, taken)
        found = True
    return found


def _inline(model: Model, node: gs.Node, branch: gs.Graph) -> None:
    """The branch's nodes under new names, then an Identity for each output."""
    graph = model.graph
    outer = graph.tensors()
    names = model.names()
    for part in branch.nodes:
        part.name = fresh(f"{node.name}/{part.name or part.op}", names)
        for tensor in part.outputs:
            if not tensor.is_empty():
                tensor.name = fresh(tensor.name, names)
    for part in (branch, *(inner for made in branch.nodes for body in bodies(made).values() for inner in graphs(body))):
        for reader in part.nodes:
            reader.inputs = [_settled(tensor, outer, names) for tensor in reader.inputs]
    results = [outer.get(t.name, t) if not t.inputs and not isinstance(t, gs.Constant) else t for t in branch.outputs]
    outputs = list(node.outputs)
    node.outputs.clear()
    ends = [
        gs.Node("Identity", name=fresh(f"{node.name}/{made.name}", names), inputs=[result], outputs=[made])
        for result, made in zip(results, outputs, strict=True)
        if not made.is_empty()
    ]
    place = next(index for index, other in enumerate(graph.nodes) if other is node)
    graph.nodes[place : place + 1] = [*branch.nodes, *ends]


def _settled(tensor: gs.Tensor, outer: dict[str, gs.Tensor], names: set[str]) -> gs.Tensor:
    """The replacement for a tensor a branch node reads: an outer constant, or the tensor's new name."""
    other = outer.get(tensor.name)
    if not isinstance(tensor, gs.Constant) or other is None or other is tensor:
        return tensor
    if isinstance(other, gs.Constant) and other._values is tensor._values:
        return other
    tensor.name = fresh(tensor.name, names)
    return tensor
