"""Give each constant that a pass may change a single reader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import count

import onnx_graphsurgeon as gs

from onnxptq.graph.edit import set_input
from onnxptq.graph.model import Model

OWNERS = {
    "MatMul": (0, 1),
    "Add": (0, 1),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "LayerNormalization": (1, 2),
    "BatchNormalization": (1, 2, 3, 4),
    "InstanceNormalization": (1, 2),
    "GroupNormalization": (1, 2),
}


def unshare(model: Model) -> None:
    """Split weights, biases and norm parameters that nodes share; their arrays stay shared in memory."""
    seen: set[str] = set()
    names = model.names()
    numbers: defaultdict[str, Iterator[int]] = defaultdict(lambda: count(1))
    for node in model.graph.nodes:
        for index in OWNERS.get(node.op, ()):
            if index >= len(node.inputs):
                continue
            tensor = node.inputs[index]
            if not isinstance(tensor, gs.Constant) or tensor.name in model.tensors or len(tensor.shape) == 0:
                continue
            if tensor.name in seen:
                own = (f"{tensor.name}_{number}" for number in numbers[tensor.name])
                set_input(node, index, gs.Constant(next(n for n in own if n not in names), tensor.values))
            elif len(tensor.outputs) > 1:
                seen.add(tensor.name)
