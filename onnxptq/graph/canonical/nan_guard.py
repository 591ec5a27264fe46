"""Remove the NaN guard of scaled_dot_product_attention where no row of scores can be all -inf."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.attention import Scores, scores
from onnxptq.graph.canonical.rewrite import Pattern, need
from onnxptq.graph.dataflow.flow import MOVES, scaling, varying
from onnxptq.graph.edit import producer, replace_reads
from onnxptq.graph.model import Model, value

FINITE = MOVES | {"Cast", "MatMul", "Where"}
"""Ops that keep finite numbers finite (barring overflow)."""
BOOLEAN = frozenset(
    {"And", "Or", "Not", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf", "Xor"}
)


class NanGuard(Pattern[Scores]):
    """Where(IsNaN(P), 0, P), or a test of the mask instead of IsNaN, equals P if all additive terms are finite."""

    name = "needless NaN guard"
    anchors = frozenset({"Softmax"})

    def check(self, node: gs.Node, model: Model) -> Scores:
        """The guarded attention."""
        found = scores(node, varying(model))
        need(found is not None and found.guard and not found.thinned, "no guard")
        assert found is not None
        here = found.qk.outputs[0]
        for step in found.steps:
            need(
                step.op in ("Add", "Reshape") or scaling(step) is not None,
                "the scores are masked otherwise than by adding",
            )
            for term in step.inputs:
                if step.op == "Add" and term is not here:
                    need(is_finite(term), f"{term.name} may be -inf")
            here = step.outputs[0]
        return found

    def rewrite(self, node: gs.Node, match: Scores, model: Model) -> None:
        """Let the product read the softmax."""
        replace_reads(match.guard[-1].outputs[0], node.outputs[0], keep=match.guard)
        for dead in match.guard:
            dead.outputs.clear()


def is_finite(tensor: gs.Tensor, depth: int = 24) -> bool:
    """Whether a tensor is finite for all inputs; float inputs of the graph may not be."""
    if str(tensor.dtype).startswith(("bool", "int", "uint")):
        return True
    array = value(tensor)
    if array is not None:
        return bool(np.isfinite(array).all()) if array.dtype.kind == "f" else True
    node = producer(tensor)
    if node is None or depth == 0:
        return False
    if node.op in BOOLEAN:
        return True
    if node.op in ("Add", "Sub", "Mul") or node.op in FINITE:
        return all(is_finite(t, depth - 1) for t in node.inputs if t.name)
    return False
