"""Constant folding, simplified shape arithmetic and no-op removal."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.canonical.branches import settle_branches
from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.dataflow.elements import element_type
from onnxptq.graph.dataflow.folding import Facts
from onnxptq.graph.dataflow.partial_values import is_complete
from onnxptq.graph.dataflow.shapes import analyse, write
from onnxptq.graph.edit import bypass, producer, set_input, sweep
from onnxptq.graph.model import Model, value

RESHAPES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten"})
ROOM = 1 << 26
"""Bytes that all folded constants of a model may take, beside eight times its original constants."""


def fold(model: Model) -> None:
    """Fold constants, simplify shape arithmetic, and remove nodes without effect."""
    graph = model.graph
    _lift_constants(model)
    graph.toposort()
    if model.room is None:
        model.room = ROOM + 8 * sum(tensor._values.nbytes for tensor in model.constants())
    facts = analyse(model, weights=True, room=model.room)
    while settle_branches(model, facts):
        _lift_constants(model)
        facts = analyse(model, weights=True, room=model.room)
    model.room = facts.room
    outputs = {id(t) for t in graph.outputs}
    for node in graph.nodes:
        wanted = [t for t in node.outputs if t.name]
        made = [
            (t, v)
            for t in wanted
            if (v := facts.values.get(t.name)) is not None and is_complete(v) and id(t) not in outputs
        ]
        if made and len(made) == len(wanted):
            node.outputs.clear()
            for tensor, value in made:
                tensor.to_constant(np.ascontiguousarray(value) if value.ndim else np.array(value))
    sweep(model)
    write(model, facts)
    for node in list(graph.nodes):
        if node.op == "Reshape":
            _plain_reshape(model, node, facts)
    for node in list(graph.nodes):
        if _does_nothing(node, facts):
            bypass(model, node)
        elif node.op == "Where":
            _settle(model, node, facts)
        elif node.op in RESHAPES:
            _round_trip(model, node, facts)
    sweep(model)
    graph.cleanup(remove_unused_node_outputs=False, remove_unused_graph_inputs=False).toposort()


def _lift_constants(model: Model) -> None:
    """Turn Constant nodes into initialisers."""
    outputs = {id(t) for t in model.graph.outputs}
    for node in model.graph.nodes:
        if node.op == "Constant" and node.outputs and id(node.outputs[0]) not in outputs:
            held = _constant(node.attrs)
            if held is not None:
                (tensor,) = node.outputs
                node.outputs.clear()
                tensor.to_constant(held)
    sweep(model)


def _constant(attrs: dict[str, Any]) -> Any:
    if "value" in attrs:
        return attrs["value"]._values
    for name, dtype in (
        ("value_float", np.float32),
        ("value_floats", np.float32),
        ("value_int", np.int64),
        ("value_ints", np.int64),
    ):
        if name in attrs:
            return np.array(attrs[name], dtype=dtype)
    return None


def _plain_reshape(model: Model, node: gs.Node, facts: Facts) -> None:
    """Replace a computed Reshape target by a constant: 0 for a kept dimension, -1 for the unknown one."""
    source, target = node.inputs[0], node.inputs[1]
    wanted = facts.values.get(target.name)
    kept = facts.shapes.get(source.name)
    made = facts.shapes.get(node.outputs[0].name)
    if isinstance(target, gs.Constant) or made is None or kept is None:
        return
    entries: list[Dim] = (
        list(made)
        if wanted is None
        else [
            given if isinstance(given, int) and given >= 0 else found
            for given, found in zip(wanted.reshape(-1).tolist(), made, strict=True)
        ]
    )
    plain: list[int] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, int):
            if entry == 0:
                return
            plain.append(entry)
        else:
            plain.append(0 if isinstance(entry, str) and index < len(kept) and kept[index] == entry else -1)
    if plain.count(-1) > 1:
        return
    if plain.count(0) == 1 and -1 not in plain:
        plain[plain.index(0)] = -1
    node.attrs["allowzero"] = 0
    set_input(node, 1, gs.Constant(model.unique(f"{node.name}_shape"), np.array(plain, dtype=np.int64)))


def _settle(model: Model, node: gs.Node, facts: Facts) -> None:
    """Replace Where with a constant, uniform condition by the branch it takes, if shapes agree."""
    condition = _array(node.inputs[0])
    if condition is None or condition.size == 0 or condition.min() != condition.max():
        return
    chosen = node.inputs[1 if condition.reshape(-1)[0] else 2]
    shape = facts.shapes.get(chosen.name)
    if (
        not isinstance(chosen, gs.Constant)
        and shape is not None
        and None not in shape
        and shape == facts.shapes.get(node.outputs[0].name)
    ):
        node.inputs = [chosen]
        bypass(model, node)


def _round_trip(model: Model, node: gs.Node, facts: Facts) -> None:
    """A chain of Reshapes that ends with its first shape."""
    made = facts.shapes.get(node.outputs[0].name)
    if made is None or None in made:
        return
    above = producer(node.inputs[0])
    while above is not None and above.op in RESHAPES:
        source = above.inputs[0]
        if facts.shapes.get(source.name) == made:
            set_input(node, 0, source)
            bypass(model, node)
            return
        above = producer(source)


def _does_nothing(node: gs.Node, facts: Facts) -> bool:
    """Whether the node's first output always equals its first input."""
    if node.op == "Identity":
        return True
    if node.op == "Dropout":
        training = node.inputs[2] if len(node.inputs) > 2 else None
        off = (
            training is None
            or not training.name
            or (isinstance(training, gs.Constant) and not bool(np.any(training.values)))
        )
        return off and (len(node.outputs) == 1 or not node.outputs[1].outputs)
    source, target = node.inputs[0] if node.inputs else None, node.outputs[0]
    if source is None:
        return False
    if node.op == "Cast":
        return element_type(source) != 0 and element_type(source) == _element(node.attrs["to"])
    if node.op == "CastLike":
        return element_type(source) != 0 and element_type(source) == facts.elements.get(node.inputs[1].name)
    before, after = facts.shapes.get(source.name), facts.shapes.get(target.name)
    same = before is not None and before == after and None not in before
    if node.op in ("Reshape", "Expand", "Flatten"):
        return same
    if node.op == "Transpose":
        perm = node.attrs.get("perm")
        return perm is not None and list(perm) == list(range(len(perm)))
    if node.op == "Concat":
        return len(node.inputs) == 1
    if node.op == "Add":
        return same and _is_zero_matrix(node.inputs[1])
    if node.op == "Pad":
        pads = _array(node.inputs[1]) if len(node.inputs) > 1 else None
        return pads is not None and not pads.any()
    if node.op == "Slice":
        return same and all(isinstance(d, int) for d in before or ()) and not _reverses(node)
    return False


def _is_zero_matrix(tensor: gs.Tensor) -> bool:
    """Whether an added constant is all zeros and no bias: exporters add such masks, and passes may need zero biases."""
    array = _array(tensor)
    return array is not None and array.ndim > 1 and array.dtype.kind == "f" and not array.any()


def _reverses(node: gs.Node) -> bool:
    steps = _array(node.inputs[4]) if len(node.inputs) > 4 else None
    return len(node.inputs) > 4 and (steps is None or bool((steps < 0).any()))


def _array(tensor: gs.Tensor) -> NDArray[Any] | None:
    return value(tensor) if isinstance(tensor, gs.Constant) else None


def _element(to: Any) -> int:
    return to if isinstance(to, int) else int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(to)))
