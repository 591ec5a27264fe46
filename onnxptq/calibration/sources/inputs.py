"""What a model says of its inputs, for sources to check samples against and to make synthetic ones."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.calibration.sources.source import InputSpec
from onnxptq.graph.model import Model, value

PASSING = frozenset({"Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Identity"})


def input_specs(model: Model, masks: Collection[str] = ()) -> list[InputSpec]:
    """Name, type and shape of every input, the length of the table that an integer input indexes, and whether it is a
    mask."""
    return [
        InputSpec(
            tensor.name,
            np.dtype(tensor.dtype),
            tuple(tensor.shape) if tensor.shape is not None else (),
            below=_table(tensor) if np.dtype(tensor.dtype).kind in "iu" else None,
            mask=tensor.name in masks,
        )
        for tensor in model.graph.inputs
    ]


def _table(tensor: gs.Tensor) -> int | None:
    """Length of the shortest constant table that a Gather reads with this tensor as its index."""
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
