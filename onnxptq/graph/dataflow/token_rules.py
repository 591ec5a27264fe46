"""Transfer functions of the token analysis: the token axis of a node's outputs, by op."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_graphsurgeon as gs

from onnxptq.graph.model import value

KEEPING = frozenset(
    [
        "Cast",
        "Gelu",
        "Erf",
        "Tanh",
        "Sigmoid",
        "Relu",
        "Sqrt",
        "Exp",
        "Log",
        "Neg",
        "Abs",
        "Clip",
        "Identity",
        "Dropout",
        "Softmax",
        "LogSoftmax",
        "LayerNormalization",
        "InstanceNormalization",
        "BatchNormalization",
        "HardSwish",
        "HardSigmoid",
        "LeakyRelu",
        "Elu",
        "Selu",
        "Softplus",
        "Reciprocal",
        "Round",
        "Floor",
        "Not",
    ]
)
BROADCASTING = frozenset(["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "Where", "Expand", "PRelu", "Sum", "Mean"])
REDUCING = frozenset(
    [
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "ReduceMin",
        "ReduceL1",
        "ReduceL2",
        "ReduceProd",
        "ReduceSumSquare",
        "ReduceLogSumExp",
    ]
)


@dataclass(frozen=True)
class Place:
    """The token axis; ``merged``: it counts batch times tokens."""

    axis: int
    merged: bool = False


Rule = Callable[[gs.Node, list[Place | None]], Place | None]
"""The token axis in each output, given that of each input; None where there is none."""
RULES: dict[str, Rule] = {}


def transfer(*ops: str) -> Callable[[Rule], Rule]:
    """Register the rule of these ops."""

    def register(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, rule))
        return rule

    return register


@transfer(*KEEPING)
def _keep(node: gs.Node, held: list[Place | None]) -> Place | None:
    return held[0]


@transfer(*BROADCASTING)
def _broadcast(node: gs.Node, held: list[Place | None]) -> Place | None:
    ends = {p.axis - len(t.shape): p for t, p in zip(node.inputs, held, strict=True) if p is not None}
    if len(ends) != 1:
        return None
    (end, place), rank = *ends.items(), len(node.outputs[0].shape)
    return Place(end + rank, place.merged)


@transfer("MatMul")
def _matmul(node: gs.Node, held: list[Place | None]) -> Place | None:
    rank = len(node.outputs[0].shape)
    for index, gone in ((0, -1), (1, -2)):
        place = held[index]
        if place is not None:
            end = place.axis - len(node.inputs[index].shape)
            if end != gone:
                return Place(end + rank, place.merged)
    return None


@transfer("Gemm")
def _gemm(node: gs.Node, held: list[Place | None]) -> Place | None:
    rows = 1 if node.attrs.get("transA", 0) else 0
    return Place(0, held[0].merged) if held[0] is not None and held[0].axis == rows else None


@transfer("Transpose")
def _transpose(node: gs.Node, held: list[Place | None]) -> Place | None:
    place = held[0]
    assert place is not None
    order = list(node.attrs.get("perm") or reversed(range(len(node.inputs[0].shape))))
    return Place(order.index(place.axis), place.merged)


@transfer("Reshape", "Flatten")
def _reshape(node: gs.Node, held: list[Place | None]) -> Place | None:
    """Find the axis by equal sizes.

    It stays where its size and the number of elements before it are equal; or it is merged with the batch, or split
    from it.
    """
    place = held[0]
    if place is None:
        return None
    before, after = list(node.inputs[0].shape), list(node.outputs[0].shape)
    size, lead = before[place.axis], _product(before[: place.axis])
    for axis, other in enumerate(after):
        if not place.merged and other == size and _product(after[:axis]) == lead:
            return Place(axis)
        if place.merged and axis == 0 and other == size:
            return place
    if not place.merged and after and _product(after[:1]) == _product(before[: place.axis + 1]):
        return Place(0, merged=True)
    if place.merged and len(after) > 2 and _product(after[:2]) == _product(before[:1]):
        return Place(1)
    known = [n for n in (*before, *after) if isinstance(n, int)]
    # if inference left sizes open: exporters that split heads keep the leading axes
    return (
        None
        if len(known) == len(before) + len(after) or place.merged or place.axis >= len(after)
        else Place(place.axis)
    )


def _product(sizes: list[Any]) -> tuple[int, tuple[str, ...]]:
    number, names = 1, []
    for size in sizes:
        if isinstance(size, int):
            number *= size
        else:
            names.append(str(size))
    return number, tuple(sorted(names))


def _axes(node: gs.Node, position: int) -> list[int] | None:
    """The axes of a node: from its attribute or its constant input."""
    if "axes" in node.attrs:
        return [int(a) for a in node.attrs["axes"]]
    held = value(node.inputs[position]) if len(node.inputs) > position else None
    return None if held is None else [int(a) for a in held.reshape(-1)]


@transfer("Unsqueeze")
def _unsqueeze(node: gs.Node, held: list[Place | None]) -> Place | None:
    place, axes, rank = held[0], _axes(node, 1), len(node.outputs[0].shape)
    if place is None or axes is None:
        return None
    old = [axis for axis in range(rank) if axis not in {a % rank for a in axes}]
    return Place(old[place.axis], place.merged)


@transfer("Squeeze")
def _squeeze(node: gs.Node, held: list[Place | None]) -> Place | None:
    shape = node.inputs[0].shape
    axes = (
        _axes(node, 1) if len(node.inputs) > 1 or "axes" in node.attrs else [a for a, n in enumerate(shape) if n == 1]
    )
    return None if axes is None else _without(held[0], {a % len(shape) for a in axes})


@transfer(*REDUCING)
def _reduce(node: gs.Node, held: list[Place | None]) -> Place | None:
    rank = len(node.inputs[0].shape)
    axes = {a % rank for a in _axes(node, 1) or range(rank)}
    left = _without(held[0], axes)
    return held[0] if left is not None and node.attrs.get("keepdims", 1) else left


def _without(place: Place | None, axes: set[int]) -> Place | None:
    if place is None or place.axis in axes:
        return None
    return Place(place.axis - sum(a < place.axis for a in axes), place.merged)


@transfer("Gather")
def _gather(node: gs.Node, held: list[Place | None]) -> Place | None:
    data, indices = held[:2]
    axis = node.attrs.get("axis", 0) % len(node.inputs[0].shape)
    if data is None:
        return Place(axis + indices.axis, indices.merged) if indices is not None else None
    if data.axis == axis:
        return None
    return data if data.axis < axis else Place(data.axis - 1 + len(node.inputs[1].shape), data.merged)


@transfer("Split", "Concat")
def _one_axis(node: gs.Node, held: list[Place | None]) -> Place | None:
    """Split, Concat: tokens stay unless their own axis is cut."""
    rank = len(node.outputs[0].shape)
    kept = {p for p in held if p is not None}
    return next(iter(kept)) if len(kept) == 1 and next(iter(kept)).axis != node.attrs.get("axis", 0) % rank else None


@transfer("Slice", "Pad", "Conv")
def _same_size(node: gs.Node, held: list[Place | None]) -> Place | None:
    """Slice, Pad, Conv, Resize: tokens stay where their number stays."""
    place = held[0]
    if place is None or len(node.outputs[0].shape) != len(node.inputs[0].shape):
        return None
    return place if node.inputs[0].shape[place.axis] == node.outputs[0].shape[place.axis] else None


@transfer("Einsum")
def _einsum(node: gs.Node, held: list[Place | None]) -> Place | None:
    left, _, out = node.attrs["equation"].replace(" ", "").partition("->")
    for term, place in zip(left.split(","), held, strict=True):
        if place is not None and "." not in term and term[place.axis] in out:
            return Place(out.index(term[place.axis]), place.merged)
    return None
