"""Partial values: small integer tensors whose entries are numbers, symbols (see ``dims``) or unknown."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxptq.graph.dataflow import dims
from onnxptq.graph.dataflow.dims import Dim

Value = NDArray[Any]
Shape = Sequence[Dim] | None
LIMIT = 4096
"""Maximum number of elements of a tracked value."""

Rule = Callable[[gs.Node, list[Value | None], list[Shape]], "Value | None"]


def entries(values: Sequence[Dim]) -> Value:
    """An object vector of these entries."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def settled(value: Value | None) -> Value | None:
    """The value as an integer array if every entry is a number, else unchanged."""
    if value is None or value.dtype != object:
        return value
    if all(isinstance(entry, (int, np.integer)) for entry in value.flat):
        return value.astype(np.int64)
    return value


def is_complete(value: Value | None) -> bool:
    """Whether every entry is a number."""
    return value is not None and value.dtype != object


def known_values(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> list[Value | None]:
    """The known part of each output, or None."""
    rule = _RULES.get(node.op)
    large = any(v is not None and v.size > LIMIT for v in values)
    if large or (rule is None and node.op != "Split") or node.domain not in ("", None, "ai.onnx"):
        return [None] * len(node.outputs)
    try:
        if node.op == "Split":
            return _split(node, values)
        result = rule(node, values, shapes) if rule is not None else None
    except (IndexError, ValueError, TypeError):
        # A malformed node gives nothing here; the runtime reports it.
        result = None
    if result is not None and result.size > LIMIT:
        result = None
    return [settled(result)] + [None] * (len(node.outputs) - 1)


def ints(value: Value | None) -> list[int] | None:
    """A complete integer vector as a list."""
    if value is None or not is_complete(value):
        return None
    return [int(v) for v in np.asarray(value).reshape(-1)]


def _shape(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    if shapes[0] is None:
        return None
    rank = len(shapes[0])
    start, end, _ = slice(node.attrs.get("start", 0), node.attrs.get("end", rank)).indices(rank)
    return entries(list(shapes[0][start:end]))


def _size(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    return None if shapes[0] is None else np.array(dims.product(shapes[0]), dtype=object)


def _gather(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    data, index = values
    if data is None or index is None or not is_complete(index):
        return None
    return np.asarray(
        np.take(data, np.asarray(index, dtype=np.int64), axis=node.attrs.get("axis", 0)), dtype=data.dtype
    )


def _slice(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    data = values[0]
    given = [ints(v) for v in values[1:]]
    if data is None or any(g is None for g in given):
        return None
    starts, ends = given[0] or [], given[1] or []
    axes = given[2] if len(given) > 2 and given[2] is not None else list(range(len(starts)))
    steps = given[3] if len(given) > 3 and given[3] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        data = np.take(data, _picked(data.shape[axis], start, end, step), axis=axis)
    return data


def _picked(length: int, start: int, end: int, step: int) -> list[int]:
    """Indices a Slice takes.

    Negative ones count from the end, then both ends are clipped (unlike Python's slices for negative steps).
    """
    start, end = (i + length if i < 0 else i for i in (start, end))
    if step > 0:
        return list(range(min(max(start, 0), length), min(max(end, 0), length), step))
    return list(range(min(max(start, 0), length - 1), min(max(end, -1), length - 1), step))


def _concat(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    parts: list[Value] = []
    for value, shape in zip(values, shapes, strict=True):
        if value is None:
            if shape is None or len(shape) != 1 or not isinstance(shape[0], int) or shape[0] > LIMIT:
                return None
            value = entries([None] * shape[0])
        parts.append(value.astype(object))
    return np.concatenate(parts, axis=node.attrs.get("axis", 0))


def _squeeze(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    axes = node.attrs.get("axes") if len(values) < 2 else ints(values[1])
    if values[0] is None or (len(values) > 1 and axes is None):
        return None
    return np.squeeze(values[0], axis=tuple(axes) if axes is not None else None)


def _unsqueeze(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    axes = node.attrs.get("axes") if len(values) < 2 else ints(values[1])
    return None if values[0] is None or axes is None else np.expand_dims(values[0], tuple(axes))


def _reshape(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    target = ints(values[1])
    if values[0] is None or target is None or (0 in target):
        return None
    return values[0].reshape(target)


def _same(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    if node.op == "Cast" and _kind(node.attrs.get("to")) not in "iu":
        return None
    return values[0]


def _kind(to: Any) -> str:
    dtype = onnx.helper.tensor_dtype_to_np_dtype(to) if isinstance(to, int) else np.dtype(to)
    return str(dtype.kind)


def _transpose(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    return None if values[0] is None else np.transpose(values[0], node.attrs.get("perm"))


def _elementwise(function: Callable[[Dim, Dim], Dim]) -> Rule:
    lift = np.frompyfunc(function, 2, 1)

    def rule(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
        if any(v is None or v.dtype.kind not in "iuO" for v in values):
            return None
        a, b = (np.asarray(v, dtype=object) for v in values)
        return np.asarray(lift(a, b), dtype=object)

    return rule


def _where(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    condition, yes, no = values
    if condition is None or yes is None or no is None:
        return None
    choose = np.frompyfunc(lambda c, a, b: None if c is None else a if c else b, 3, 1)
    return np.asarray(choose(condition.astype(object), yes.astype(object), no.astype(object)), dtype=object)


def _expand(node: gs.Node, values: list[Value | None], shapes: list[Shape]) -> Value | None:
    target = ints(values[1])
    if values[0] is None or target is None or math.prod(target) > LIMIT:
        return None
    return np.array(np.broadcast_to(values[0], np.broadcast_shapes(values[0].shape, tuple(target))))


def _split(node: gs.Node, values: list[Value | None]) -> list[Value | None]:
    sizes = node.attrs.get("split") if len(values) < 2 else ints(values[1])
    data = values[0]
    count = len(node.outputs)
    if (
        data is None
        or (len(values) > 1 and sizes is None)
        or (sizes is None and data.shape[node.attrs.get("axis", 0)] % count)
    ):
        return [None] * count
    cuts = np.cumsum(sizes)[:-1].tolist() if sizes is not None else count
    return [settled(part) for part in np.split(data, cuts, axis=node.attrs.get("axis", 0))]


_RULES: dict[str, Rule] = {
    "Shape": _shape,
    "Size": _size,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Identity": _same,
    "Cast": _same,
    "Transpose": _transpose,
    "Add": _elementwise(dims.add),
    "Sub": _elementwise(dims.sub),
    "Mul": _elementwise(dims.mul),
    "Div": _elementwise(dims.floordiv),
    "Mod": _elementwise(dims.mod),
    "Equal": _elementwise(dims.equal),
    "Where": _where,
    "Expand": _expand,
}
