"""Edit constants of linears: shared constants are cloned, and arrays are never written in place."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import ArrayLike, NDArray

from onnxptq.graph.dataflow.flow import data_inputs, moves
from onnxptq.graph.edit import is_output, position, set_constant
from onnxptq.graph.model import Model, value
from onnxptq.structure import Attention, Linear, Source, Structure

F64 = NDArray[np.float64]


def bias_slot(model: Model, linear: Linear) -> tuple[gs.Node, int] | None:
    """The Add of the bias, and the position of the bias among its inputs, in the current graph."""
    product = model.nodes()[linear.name].outputs[0]
    if len(product.outputs) != 1 or is_output(model, product) or product.outputs[0].op != "Add":
        return None
    add = product.outputs[0]
    index = 1 if add.inputs[0] is product else 0
    held = value(add.inputs[index])
    if held is None or held.size != linear.outputs or held.shape[-1:] != (linear.outputs,):
        return None
    return add, index


def weight(model: Model, linear: Linear) -> F64:
    """The current weight [K, N]."""
    return np.asarray(value(model.nodes()[linear.name].inputs[1]), np.float64)


def shift_output(model: Model, linear: Linear, shift: ArrayLike) -> None:
    """Add ``shift`` [N] to the bias, or create the bias. Readers still read ``linear.output`` by its name."""
    moved = np.asarray(shift, np.float64)
    slot = bias_slot(model, linear)
    if slot is not None:
        add, index = slot
        old = np.asarray(value(add.inputs[index]), np.float64)
        set_constant(model, add, index, old + moved.reshape(old.shape))
        return
    product = model.nodes()[linear.name]
    output = product.outputs[0]
    bare = gs.Variable(model.unique(f"{output.name}_product"), dtype=output.dtype, shape=output.shape)
    product.outputs[0] = bare
    bias = gs.Constant(model.unique(f"{linear.name}_bias"), moved.astype(model.tensor(linear.weight).dtype))
    add = gs.Node("Add", model.unique(f"{linear.name}_add"), inputs=[bare, bias], outputs=[output])
    model.graph.nodes.insert(position(model, product) + 1, add)


def scale_output(model: Model, linear: Linear, factor: ArrayLike) -> None:
    """Multiply weight and bias of every output channel by its ``factor`` [N]."""
    scale = np.asarray(factor, np.float64)
    set_constant(model, model.nodes()[linear.name], 1, weight(model, linear) * scale)
    slot = bias_slot(model, linear)
    if slot is not None:
        add, index = slot
        old = np.asarray(value(add.inputs[index]), np.float64)
        set_constant(model, add, index, old * scale.reshape(old.shape))


def scale_input(model: Model, linear: Linear, factor: ArrayLike) -> None:
    """Multiply the weights of each input channel by its ``factor`` [K]."""
    set_constant(model, model.nodes()[linear.name], 1, weight(model, linear) * np.asarray(factor, np.float64)[:, None])


def padding(node: gs.Node) -> float | None:
    """The fill value of a Pad; None where it adds nothing or only copies; NaN where unknown."""
    amounts = value(node.inputs[1])
    if (amounts is not None and not amounts.any()) or node.attrs.get("mode", "constant") != "constant":
        return None
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return 0.0
    filled = value(node.inputs[2])
    return float(filled.reshape(())) if filled is not None and filled.size == 1 else float("nan")


def obstacle(model: Model, source: str, target: str, *, zeros: bool) -> str | None:
    """Why not every number in ``target`` is one of ``source``; None where each is.

    ``zeros`` allows zeros that a Pad adds.
    """
    pending = [model.tensor(target)]
    seen: set[str] = set()
    while pending:
        tensor = pending.pop()
        if tensor.name == source or tensor.name in seen:
            continue
        seen.add(tensor.name)
        if not tensor.inputs:
            return f"{tensor.name} flows in beside {source}"
        node = tensor.inputs[0]
        if not moves(node):
            return f"{node.op} {node.name} lies between"
        if node.op == "Pad" and (filled := padding(node)) is not None and not (zeros and filled == 0):
            return f"Pad {node.name} adds tokens of its own"
        pending += data_inputs(node)
    return None


def operand(
    model: Model, structure: Structure, attention: Attention, which: Literal["q", "k", "v"], *, zeros: bool = False
) -> Source | str:
    """The linear that alone produces an attention's queries, keys or values, or why there is none.

    Nothing else reads those channels. ``zeros``: zero tokens may be added after the linear (harmless where channels are
    only scaled).
    """
    word = {"q": "queries", "k": "keys", "v": "values"}[which]
    source: Source | None = getattr(attention, f"{which}_source")
    if source is None:
        return f"no single linear makes its {word}"
    if not source.exclusive:
        return f"something else reads its {word} too"
    return obstacle(model, structure.linears[source.linear].output, getattr(attention, which), zeros=zeros) or source


def unmatched(q: Source, k: Source) -> str | None:
    """Why query and key channels do not match one to one in the scores; None where they do."""
    partner = np.full(int(q.channels.max()) + 1, -1)
    partner[q.channels] = k.channels
    return (
        None
        if np.array_equal(partner[q.channels], k.channels)
        else "a channel of its queries meets several of its keys"
    )
