"""pointwise: rewrite a convolution of kernel 1 over tokens as a linear, whose input can be quantized token by token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.flow import swaps_last
from onnxptq.graph.edit import is_output, position, producer, remove
from onnxptq.graph.model import Model, value
from onnxptq.passes.base import Change, Pass
from onnxptq.structure import Structure

SWAP = [0, 2, 1]
PLAIN = {"auto_pad": "NOTSET", "group": 1, "strides": [1], "pads": [0, 0]}


class PointwiseConvolutions(Pass):
    """Conv of [B, C, N] becomes a MatMul of [B, N, C] between Transposes; a Transpose before it is removed instead.

    1. Kernel, stride and groups are 1, there is no padding, weight and bias are constant.
    """

    name = "pointwise"
    restructures = True

    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> list[Change]:
        """See the class."""
        changes = []
        for name in structure.convs:
            node = model.nodes()[name]
            weight = value(node.inputs[1])
            if node.op != "Conv" or weight is None or weight.ndim != 3:
                continue
            if weight.shape[2] != 1 or any(node.attrs.get(key, default) != default for key, default in PLAIN.items()):
                changes.append(self.left(name, "it reads more than one token"))
            elif len(node.inputs) > 2 and value(node.inputs[2]) is None:
                changes.append(self.left(name, "its bias is not constant"))
            else:
                _rewrite(model, node, weight)
                changes.append(Change(self.name, name, "a linear now"))
        return changes


def _rewrite(model: Model, conv: gs.Node, weight: np.ndarray[Any, Any]) -> None:
    x, y = conv.inputs[0], conv.outputs[0]
    batch, _, tokens = y.shape or (None, None, None)
    channels, outputs = weight.shape[1], weight.shape[0]

    def variable(what: str, width: int) -> gs.Variable:
        return gs.Variable(model.unique(f"{conv.name}_{what}"), dtype=y.dtype, shape=[batch, tokens, width])

    made = []
    maker = producer(x)
    swap = maker if maker is not None and swaps_last(maker) else None
    rows = swap.inputs[0] if swap is not None else variable("rows", channels)
    if swap is None:
        made.append(gs.Node("Transpose", model.unique(f"{conv.name}_rows"), {"perm": SWAP}, [x], [rows]))
    matrix = gs.Constant(model.unique(f"{conv.name}_matrix"), np.ascontiguousarray(weight[:, :, 0].T))
    product = variable("product", outputs)
    made.append(gs.Node("MatMul", conv.name, {}, [rows, matrix], [product]))
    if len(conv.inputs) > 2:
        moved = variable("moved", outputs)
        made.append(gs.Node("Add", model.unique(f"{conv.name}_bias"), {}, [product, conv.inputs[2]], [moved]))
        product = moved
    place = position(model, conv)
    remove(model, conv)
    made.append(gs.Node("Transpose", model.unique(f"{conv.name}_back"), {"perm": SWAP}, [product], [y]))
    model.graph.nodes[place:place] = made
    if swap is not None and not x.outputs and not is_output(model, x):
        remove(model, swap)
