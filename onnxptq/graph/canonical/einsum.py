"""Rewrite Einsum of two operands as MatMul between Transposes."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.rewrite import Pattern, need
from onnxptq.graph.edit import append, replace_output
from onnxptq.graph.model import Model


@dataclass(frozen=True)
class EinsumProduct:
    """Which operand is on the left, and the axis orders."""

    swapped: bool
    left: list[int]
    right: list[int]
    result: list[int]


class Einsum(Pattern[EinsumProduct]):
    """Match Einsum of two operands with shared batch letters and one summed letter.

    One operand has only one letter of its own.
    """

    name = "MatMul from Einsum"
    anchors = frozenset({"Einsum"})

    def check(self, node: gs.Node, model: Model) -> EinsumProduct:
        """The axis orders of the equivalent MatMul."""
        need(len(node.inputs) == 2, "not two operands")
        equation = node.attrs["equation"].replace(" ", "")
        need("->" in equation and "." not in equation, "output letters are implicit, or an ellipsis")
        terms, out = equation.split("->")
        a, b = terms.split(",")
        need(all(len(set(t)) == len(t) for t in (a, b, out)), "a letter occurs twice in one operand")
        swapped = len(set(b) - set(a)) > 1
        left, right = (b, a) if swapped else (a, b)
        batch = [c for c in out if c in left and c in right]
        summed = [c for c in left if c in right and c not in out]
        rows = [c for c in left if c not in right]
        columns = [c for c in right if c not in left]
        need(
            len(summed) == 1 and len(columns) == 1 and rows, "not one summed letter, one column letter and a row letter"
        )
        need(set(rows + columns) <= set(out), "a letter of one operand alone is summed")
        order = [*rows[:-1], *batch, rows[-1]]
        return EinsumProduct(
            swapped,
            [left.index(c) for c in [*order, summed[0]]],
            [right.index(c) for c in [*batch, summed[0], columns[0]]],
            [[*order, columns[0]].index(c) for c in out],
        )

    def rewrite(self, node: gs.Node, match: EinsumProduct, model: Model) -> None:
        """Transpose, MatMul, Transpose; identity Transposes are left out."""
        left, right = reversed(node.inputs) if match.swapped else node.inputs
        a = _ordered(model, left, match.left, f"{node.name}_left")
        b = _ordered(model, right, match.right, f"{node.name}_right")
        y = append(model, "MatMul", [a, b], base=f"{node.name}_matmul")
        y.dtype = node.outputs[0].dtype
        y = _ordered(model, y, match.result, f"{node.name}_result")
        y.dtype, y.shape = node.outputs[0].dtype, node.outputs[0].shape
        replace_output(model, node, 0, y)
        node.outputs.clear()


def _ordered(model: Model, x: gs.Tensor, perm: list[int], base: str) -> gs.Tensor:
    if perm == list(range(len(perm))):
        return x
    y = append(model, "Transpose", [x], base=base, perm=perm)
    y.dtype = x.dtype
    return y
