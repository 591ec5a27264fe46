"""Shape rules for ops whose schema inference does not handle symbols."""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow import dims
from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.dataflow.partial_values import Value, ints, is_complete

Shape = tuple[Dim, ...]
Rule = Callable[[list[Shape | None], list[Value | None], gs.Node], Shape | None]
"""Shape of the first output from shapes and values of the inputs; None if unknown."""


def _reshape(shapes: list[Shape | None], values: list[Value | None], node: gs.Node) -> Shape | None:
    target, source = values[1], shapes[0]
    if target is None or source is None:
        return None
    copied: list[Dim] = []
    for index, entry in enumerate(target.reshape(-1).tolist()):
        keeps = entry == 0 and not node.attrs.get("allowzero", 0)
        copied.append((source[index] if index < len(source) else None) if keeps else entry)
    if copied.count(-1) == 1:
        rest = [d for d in copied if d != -1]
        copied[copied.index(-1)] = dims.quotient(dims.product(source), dims.product(rest))
    elif copied.count(None) == 1:
        at = copied.index(None)
        copied[at] = dims.quotient(dims.product(source), dims.product(copied[:at] + copied[at + 1 :]))
    return tuple(copied)


def _expand(shapes: list[Shape | None], values: list[Value | None], node: gs.Node) -> Shape | None:
    if values[1] is None or shapes[0] is None:
        return None
    return dims.broadcast(shapes[0], values[1].reshape(-1).tolist())


def _constant_of_shape(shapes: list[Shape | None], values: list[Value | None], node: gs.Node) -> Shape | None:
    return None if values[0] is None else tuple(values[0].reshape(-1).tolist())


def _concat(shapes: list[Shape | None], values: list[Value | None], node: gs.Node) -> Shape | None:
    if any(s is None for s in shapes):
        return None
    known = [s for s in shapes if s is not None]
    rank = len(known[0])
    axis = node.attrs["axis"] % max(rank, 1)
    out: list[Dim] = []
    for index in range(rank):
        column = [s[index] for s in known]
        if index == axis:
            total: Dim = 0
            for dim in column:
                total = dims.add(total, dim)
            out.append(total)
        else:
            out.append(next((d for d in column if isinstance(d, int)), column[0]))
    return tuple(out)


def _tile(shapes: list[Shape | None], values: list[Value | None], node: gs.Node) -> Shape | None:
    if values[1] is None or shapes[0] is None or values[1].size != len(shapes[0]):
        return None
    return tuple(dims.mul(a, b) for a, b in zip(shapes[0], values[1].reshape(-1).tolist(), strict=True))


def _slice(shapes: list[Shape | None], values: list[Value | None], node: gs.Node) -> Shape | None:
    """Slice with a symbolic end, start 0 and step 1; the schema's inference does the rest."""
    if shapes[0] is None or len(values) < 3 or values[2] is None or is_complete(values[2]):
        return None
    starts = ints(values[1])
    axes = ints(values[3]) if len(values) > 3 else list(range(len(values[2])))
    steps = ints(values[4]) if len(values) > 4 else [1] * len(values[2])
    if starts is None or axes is None or any(starts) or steps is None or set(steps) != {1}:
        return None
    out = list(shapes[0])
    for axis, end in zip(axes, values[2].tolist(), strict=True):
        out[axis] = end if end is not None and "-" not in str(end) else None
    return tuple(out)


def _shape_like(shapes: list[Shape | None], values: list[Value | None], node: gs.Node) -> Shape | None:
    return shapes[0]


RULES: dict[str, Rule] = {
    "Reshape": _reshape,
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Concat": _concat,
    "Tile": _tile,
    "Slice": _slice,
    "Identity": _shape_like,
}
"""Shape rules by op, where the schema's inference does not handle symbols."""
