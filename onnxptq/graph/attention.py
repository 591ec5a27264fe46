"""Attention read off the graph: from the product q k^T through the softmax to the product with the values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxptq.graph.dataflow.flow import scaling, standard, swaps_last
from onnxptq.graph.edit import producer
from onnxptq.graph.model import scalar

STEPS = frozenset({"Mul", "Div", "Add", "Reshape", "Where"})


@dataclass(frozen=True)
class Scores:
    """A softmax over products of queries (activations or constants) and keys, and its product with values."""

    softmax: gs.Node
    qk: gs.Node
    av: gs.Node
    steps: tuple[gs.Node, ...]
    """Nodes between the product and the softmax, in order."""
    guard: tuple[gs.Node, ...] = ()
    """Nodes between softmax and product that zero rows of nothing but -inf, if there are any."""
    thinned: bool = False
    """Whether those nodes zero other probabilities too (a mask after the softmax)."""
    reshape: gs.Node | None = None
    """A Reshape of the leading axes right before the product with the values."""

    @property
    def probabilities(self) -> gs.Tensor:
        """The tensor multiplied with the values."""
        tensor: gs.Tensor = self.av.inputs[0]
        return tensor

    @property
    def behind(self) -> tuple[gs.Node, ...]:
        """Nodes between the softmax and the product with the values."""
        return (*self.guard, self.reshape) if self.reshape is not None else self.guard


@dataclass(frozen=True)
class Operand:
    """An operand of the scores' product, traced back to the q or k of the attention's definition."""

    tensor: gs.Tensor
    factor: float
    scales: tuple[gs.Node, ...]
    """Scalar Mul and Div nodes on the path, from the product upwards."""
    transpose: gs.Node | None
    """The node on the path that swaps the last two axes, if there is one."""


def scores(softmax: gs.Node, varying: set[str]) -> Scores | None:
    """The attention around a Softmax over the last axis, or None."""
    found = recognised(softmax, varying)
    return found if isinstance(found, Scores) else None


def recognised(softmax: gs.Node, varying: set[str]) -> Scores | str:
    """The attention around a Softmax, or the reason why there is none."""
    output = softmax.outputs[0]
    rank = len(output.shape) if output.shape is not None else None
    axis = softmax.attrs.get("axis", -1)
    if axis != -1 and (rank is None or axis != rank - 1):
        return "its softmax is not over the last axis"
    guard = _guard(output)
    thinned = not guard
    if not guard:
        guard = _zeroed(output)
    if guard:
        output = guard[-1].outputs[0]
    reshape = output.outputs[0] if len(output.outputs) == 1 and output.outputs[0].op == "Reshape" else None
    if reshape is not None:
        if (
            output.shape is None
            or reshape.outputs[0].shape is None
            or list(reshape.outputs[0].shape[-2:]) != list(output.shape[-2:])
        ):
            return "its probabilities are reshaped"
        output = reshape.outputs[0]
    products = [n for n in output.outputs if n.op == "MatMul" and n.inputs[0] is output and _values(n, varying)]
    if len(products) != 1:
        readers = ", ".join(dict.fromkeys(n.op for n in output.outputs)) or "nothing"
        return f"{len(products) or 'no'} products with values read its softmax, but {readers}"
    path = _to_product(softmax.inputs[0], varying, fixed=False) or _to_product(softmax.inputs[0], varying, fixed=True)
    if path is None:
        return f"its scores are no product of queries and keys with scale and bias ({_steps_back(softmax)})"
    return Scores(softmax, path[0], products[0], tuple(path[1:]), guard, thinned and bool(guard), reshape)


def _values(product: gs.Node, varying: set[str]) -> bool:
    """Whether the right operand holds values: an activation, or a constant with more axes than a weight."""
    right = product.inputs[1]
    return right.name in varying or (right.shape is not None and len(right.shape) > 2)


def _steps_back(softmax: gs.Node) -> str:
    """The ops before a softmax, nearest first."""
    ops: list[str] = []
    node = producer(softmax.inputs[0])
    while node is not None and len(ops) < 4:
        ops.append(node.op)
        node = producer(node.inputs[0]) if node.op != "MatMul" and node.inputs else None
    return " <- ".join(["Softmax", *ops])


def _guard(output: gs.Tensor) -> tuple[gs.Node, ...]:
    """Match Where(no key is allowed, 0, P), as exporters of scaled_dot_product_attention write it."""
    for chosen in output.outputs:
        if chosen.op != "Where" or chosen.inputs[2] is not output or scalar(chosen.inputs[1]) != 0.0:
            continue
        test = producer(chosen.inputs[0])
        if test is None or len(test.outputs[0].outputs) != 1:
            continue
        if test.op == "IsNaN" and test.inputs[0] is output and len(output.outputs) == 2:
            return test, chosen
        highest = producer(test.inputs[0]) if test.op == "Equal" else None
        if (
            highest is not None
            and highest.op == "ReduceMax"
            and scalar(test.inputs[1]) == -math.inf
            and len(output.outputs) == 1
        ):
            return test, chosen
    return ()


def _zeroed(output: gs.Tensor) -> tuple[gs.Node, ...]:
    """Match Where(condition, 0, P) for any condition."""
    if (
        len(output.outputs) == 1
        and (node := output.outputs[0]).op == "Where"
        and node.inputs[2] is output
        and scalar(node.inputs[1]) == 0.0
    ):
        return (node,)
    return ()


def _to_product(tensor: gs.Tensor, varying: set[str], *, fixed: bool) -> list[gs.Node] | None:
    """Nodes from the product of queries and keys down to ``tensor``.

    Keys must be activations; queries too unless ``fixed``.
    """
    node = producer(tensor)
    if node is None or not standard(node):
        return None
    if node.op == "MatMul":
        queries, keys = (t.name in varying for t in node.inputs)
        return [node] if keys and queries is not fixed else None
    if node.op not in STEPS:
        return None
    for source in node.inputs[:1] if node.op == "Reshape" else node.inputs:
        path = _to_product(source, varying, fixed=fixed)
        if path is not None:
            return [*path, node]
    return None


def operand(tensor: gs.Tensor, *, transposed: bool) -> Operand:
    """Trace an operand back over scalar factors and, for keys, over one swap of the last two axes."""
    factor = 1.0
    scales: list[gs.Node] = []
    transpose: gs.Node | None = None
    while True:
        node = producer(tensor)
        if node is None:
            break
        scaled = scaling(node)
        if scaled is not None:
            tensor, factor = scaled[0], factor * scaled[1]
            scales.append(node)
        elif transposed and transpose is None and swaps_last(node):
            transpose = node
            tensor = node.inputs[0]
        else:
            break
    return Operand(tensor, factor, tuple(scales), transpose)
