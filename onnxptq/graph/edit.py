"""Small edits of a graphsurgeon graph that keep its links consistent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.model import Model
from onnxptq.graph.nested import graphs


def set_input(node: gs.Node, index: int, tensor: gs.Tensor) -> None:
    """Replace one input of a node (the same tensor may be read at other positions)."""
    inputs = list(node.inputs)
    inputs[index] = tensor
    node.inputs = inputs


def set_constant(model: Model, node: gs.Node, index: int, array: NDArray[Any]) -> None:
    """Replace input ``index`` of ``node`` by the constant ``array``, in the old type; other readers keep theirs."""
    old = node.inputs[index]
    array = np.ascontiguousarray(array.astype(old.dtype))
    if isinstance(old, gs.Constant) and len(old.outputs) == 1 and not is_output(model, old):
        old.values = array
    else:
        node.inputs[index] = gs.Constant(model.unique(f"{old.name}_{node.name}"), array)


def is_output(model: Model, tensor: gs.Tensor) -> bool:
    """Whether ``tensor`` is a graph output."""
    return any(out is tensor for out in model.graph.outputs)


def position(model: Model, node: gs.Node) -> int:
    """The index of ``node`` in the list of nodes."""
    return next(i for i, other in enumerate(model.graph.nodes) if other is node)


def remove(model: Model, node: gs.Node) -> None:
    """Remove ``node`` from the graph."""
    del model.graph.nodes[position(model, node)]
    node.inputs.clear()
    node.outputs.clear()


def replace_reads(old: gs.Tensor, new: gs.Tensor, *, keep: Sequence[gs.Node] = ()) -> None:
    """Redirect every reader of ``old``, except those in ``keep``, to ``new``."""
    kept = {id(node) for node in keep}
    for node in list({id(n): n for n in old.outputs}.values()):
        if id(node) not in kept:
            node.inputs = [new if t is old else t for t in node.inputs]


def bypass(model: Model, node: gs.Node) -> bool:
    """Remove a node whose first output equals its first input.

    False where an input of the graph would become its output.
    """
    source, target = node.inputs[0], node.outputs[0]
    if is_output(model, target):
        return _rename_source(model, node)
    if _read_inside(model, target):
        return False
    replace_reads(target, source)
    node.outputs.clear()
    return True


def replace_output(model: Model, node: gs.Node, index: int, tensor: gs.Tensor) -> None:
    """Replace an output of ``node`` by ``tensor``, also as a graph output (name and type kept)."""
    old = node.outputs[index]
    replace_reads(old, tensor)
    graph_outputs = model.graph.outputs
    for slot, output in enumerate(graph_outputs):
        if output is old:
            name = old.name
            old.name = model.unique(f"{name}_old")
            tensor.name = name
            graph_outputs[slot] = tensor


def append(
    model: Model, op: str, inputs: Sequence[gs.Tensor], *, like: gs.Tensor | None = None, base: str, **attrs: Any
) -> gs.Tensor:
    """Add a node with one new output named after ``base``. The caller sorts the graph."""
    name = model.unique(base)
    output = gs.Variable(f"{name}_out" if f"{name}_out" not in model.graph.tensors() else model.unique(f"{name}_out"))
    if like is not None:
        output.dtype, output.shape = like.dtype, list(like.shape) if like.shape is not None else None
    model.graph.nodes.append(gs.Node(op, name=name, attrs=attrs, inputs=list(inputs), outputs=[output]))
    return output


def constant(model: Model, base: str, array: NDArray[Any]) -> gs.Constant:
    """A new constant."""
    return gs.Constant(model.unique(base), np.asarray(array))


def sweep(model: Model) -> None:
    """Remove nodes without outputs from the graph."""
    for node in model.graph.nodes:
        if not node.outputs:
            node.inputs.clear()
    model.graph.nodes = [node for node in model.graph.nodes if node.outputs]


def only_reader(tensor: gs.Tensor, model: Model) -> gs.Node | None:
    """The node that alone reads a tensor, once, if the tensor is no graph output."""
    if len(tensor.outputs) != 1 or is_output(model, tensor):
        return None
    node: gs.Node = tensor.outputs[0]
    return node


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """The node that computes a tensor, if any."""
    return tensor.inputs[0] if len(tensor.inputs) == 1 else None


def _read_inside(model: Model, tensor: gs.Tensor) -> bool:
    """Whether a subgraph of a control-flow node reads the tensor by name."""
    return any(tensor.name in part.tensors() for part in graphs(model.graph) if part is not model.graph)


def _rename_source(model: Model, node: gs.Node) -> bool:
    """Let the producer of ``node``'s input write the graph output instead."""
    source, target = node.inputs[0], node.outputs[0]
    made = producer(source)
    if made is None or is_output(model, source) or _read_inside(model, source):
        return False
    node.outputs.clear()
    made.outputs = [target if t is source else t for t in made.outputs]
    replace_reads(source, target, keep=[node])
    return True
