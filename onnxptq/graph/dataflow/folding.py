"""Facts of a graph's tensors, and the constants that follow from them, within limits of size."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow import partial_values as partial
from onnxptq.graph.dataflow.elements import dtype_of
from onnxptq.graph.dataflow.partial_values import Value, is_complete
from onnxptq.graph.dataflow.shape_rules import Shape
from onnxptq.graph.evaluate import evaluate

SMALL = 1 << 20
"""Bytes by which a constant result may exceed its inputs."""
TABLE = 1 << 16
"""The same limit for gathers, which expand small tables to large constants (relative position terms)."""
COUNTED = frozenset({"NonZero", "Unique", "Compress"})
"""Ops whose output size is unknown, but no larger than that of their inputs."""
LEFT = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "Resize",
        "Upsample",
        "Conv",
        "ConvTranspose",
        "GridSample",
        "RoiAlign",
        "LSTM",
        "GRU",
        "RNN",
        "DFT",
        "STFT",
    }
)
"""Ops never folded: quantized values stay quantized, and NumPy's reference of the others is very slow."""


@dataclass
class Facts:
    """Known facts of a graph's tensors, by name."""

    shapes: MutableMapping[str, Shape | None] = field(default_factory=dict)
    elements: MutableMapping[str, int] = field(default_factory=dict)
    """Element types (onnx.TensorProto.DataType); 0 where unknown, and for sequences and the like."""
    values: MutableMapping[str, Value] = field(default_factory=dict)
    """Constants, and integer tensors that are at least partly known (see ``partial_values``)."""
    room: float = math.inf
    """Bytes that folded constants may still take."""


def note(facts: Facts, name: str, element: int, shape: Shape | None) -> None:
    """Record the element type and shape of a named tensor."""
    if name:
        facts.shapes[name] = shape
        facts.elements[name] = element


def follow(node: gs.Node, facts: Facts, opsets: Mapping[str, int], weights: bool) -> None:
    """Values of the outputs, if all inputs are constant or the op computes shapes."""
    values = [facts.values.get(t.name) if t.name else None for t in node.inputs]
    results: Sequence[Value | None]
    if all(v is not None and is_complete(v) for v, t in zip(values, node.inputs, strict=True) if t.name) and not _grows(
        node, facts, values
    ):
        found = evaluate(node, values, opsets=opsets)
        results = found if found is not None else [None] * len(node.outputs)
        facts.room -= sum(
            result.nbytes
            for result in results
            if result is not None and not any(v is not None and np.may_share_memory(result, v) for v in values)
        )
    else:
        shapes: list[partial.Shape] = [facts.shapes.get(t.name) for t in node.inputs]
        results = partial.known_values(node, values, shapes)
    for tensor, result in zip(node.outputs, results, strict=True):
        if result is None or not tensor.name or not (weights or result.size <= partial.LIMIT):
            continue
        element = facts.elements.get(tensor.name)
        if is_complete(result):
            if element and result.dtype.kind in "iu" and dtype_of(element) != result.dtype:
                result = result.astype(dtype_of(element))
            note(facts, tensor.name, int(onnx.helper.np_dtype_to_tensor_dtype(result.dtype)), result.shape)
        facts.values[tensor.name] = result


def _grows(node: gs.Node, facts: Facts, values: Sequence[Value | None]) -> bool:
    """Whether the result would be a large constant made from small ones, or has an unknown size."""
    if node.op in LEFT or facts.room <= 0:
        return True
    given = sum(v.nbytes for v in values if v is not None)
    for tensor in node.outputs:
        shape = facts.shapes.get(tensor.name)
        if shape is None or any(not isinstance(d, int) for d in shape):
            if given > SMALL or not (node.op in COUNTED or _short(node, values)):
                return True
            continue
        width = np.dtype(
            np.float64 if not facts.elements.get(tensor.name) else dtype_of(facts.elements[tensor.name])
        ).itemsize
        count = math.prod(d for d in shape if isinstance(d, int)) * width
        if count > max(2 * given, TABLE if node.op.startswith("Gather") else SMALL):
            return True
    return False


def _short(node: gs.Node, values: Sequence[Value | None]) -> bool:
    """Whether the node is a short Range."""
    if node.op != "Range" or len(values) != 3 or any(v is None or v.size != 1 for v in values):
        return False
    start, limit, step = (float(v.reshape(())) for v in values if v is not None)
    return step != 0 and (limit - start) / step * 8 <= SMALL
