"""Rewrite scores replaced by a very low number under a mask as scores plus that number."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.rewrite import Miss, Pattern, attention_of, need
from onnxptq.graph.edit import append, constant, replace_output
from onnxptq.graph.model import Model, scalar

LOW = -1e9
"""At and below this number, adding a score gives the number itself in float32: its last bit is worth 64."""


@dataclass(frozen=True)
class Fill:
    """Where(condition, scores, low) or Where(condition, low, scores)."""

    where: gs.Node
    scores: gs.Tensor
    low: float
    when: bool
    """Whether a true condition selects the low number."""


class MaskedFill(Pattern[Fill]):
    """Where between product and softmax becomes Add of Where(condition, 0, low)."""

    name = "masked scores"
    anchors = frozenset({"Softmax"})
    repeats = True

    def check(self, node: gs.Node, model: Model) -> Fill:
        """The first masked fill."""
        found = attention_of(node, model)
        here = found.qk.outputs[0]
        for step in found.steps:
            if step.op == "Where":
                for index, when in ((1, False), (2, True)):
                    low = scalar(step.inputs[3 - index])
                    if step.inputs[index] is here and low is not None and low <= LOW:
                        need(
                            here.shape is not None and here.shape == step.outputs[0].shape,
                            "the condition widens the scores",
                        )
                        return Fill(step, here, low, when)
            here = step.outputs[0]
        raise Miss("nothing is chosen by a condition, or not between scores and a very low number")

    def rewrite(self, node: gs.Node, match: Fill, model: Model) -> None:
        """Write the additive term, of the condition's shape."""
        base = match.where.name
        zero, low = (
            constant(model, f"{base}_{n}", np.array(v, dtype=np.float32))
            for n, v in (("zero", 0.0), ("low", match.low))
        )
        condition = match.where.inputs[0]
        term = append(model, "Where", [condition, *((low, zero) if match.when else (zero, low))], base=f"{base}_term")
        term.dtype, term.shape = np.dtype(np.float32), list(condition.shape) if condition.shape is not None else None
        y = append(model, "Add", [match.scores, term], like=match.where.outputs[0], base=f"{base}_added")
        replace_output(model, match.where, 0, y)
        match.where.outputs.clear()
