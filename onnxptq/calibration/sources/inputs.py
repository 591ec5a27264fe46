"""Input specifications of a model: sources check samples against them and create synthetic ones."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.calibration.sources.source import InputSpec
from onnxptq.errors import InputError
from onnxptq.graph.dataflow.flow import reached
from onnxptq.graph.model import Model, value

PASSING = frozenset({"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"})
SIZES = {"ConstantOfShape": 0, "Expand": 1, "Range": 1, "Reshape": 1, "Resize": 3, "Slice": 2, "Tile": 1}
"""The operand of an op that holds sizes or ends of its output."""


def input_specs(model: Model, masks: Collection[str] = ()) -> list[InputSpec]:
    """Name, type and shape of every input, length of the table it indexes, and whether it holds a mask or sizes.

    An InputError for an input that is no tensor.
    """
    for name, kind in ((t.name, model.types.get(t.name)) for t in model.graph.inputs):
        if kind is not None:
            what = str(kind.WhichOneof("value")).removesuffix("_type").replace("_", " ")
            raise InputError(f"input {name!r} is a {what}; only models whose inputs are tensors can be calibrated")
    return [
        InputSpec(
            tensor.name,
            np.dtype(tensor.dtype),
            tuple(tensor.shape) if tensor.shape is not None else (),
            below=_table(tensor) if np.dtype(tensor.dtype).kind in "iu" else None,
            mask=tensor.name in masks,
            size=_is_size(model, tensor),
        )
        for tensor in model.graph.inputs
    ]


def _table(tensor: gs.Tensor) -> int | None:
    """Length of the shortest constant table that a Gather indexes with this tensor."""
    lengths: list[int] = []
    for node in tensor.outputs:
        if node.op == "Gather" and len(node.inputs) == 2 and node.inputs[1] is tensor:
            table = value(node.inputs[0])
            if table is not None and table.ndim:
                lengths.append(table.shape[int(node.attrs.get("axis", 0))])
        elif node.op in PASSING:
            found = _table(node.outputs[0])
            lengths += [found] if found is not None else []
    return min(lengths, default=None)


def _is_size(model: Model, tensor: gs.Tensor) -> bool:
    """Whether the numbers of a scalar or vector reach an operand that holds sizes."""
    if tensor.shape is None or len(tensor.shape) > 1:
        return False
    names = {name for name, mark in reached(model, {tensor.name: 1}).items() if mark}
    return any(
        len(node.inputs) > SIZES.get(node.op, len(node.inputs)) and node.inputs[SIZES[node.op]].name in names
        for node in model.graph.nodes
    )
