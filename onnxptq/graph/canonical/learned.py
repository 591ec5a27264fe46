"""Expand learned attention operands, one for all samples, to the leading axes of the other operands."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.attention import operand, scores
from onnxptq.graph.dataflow.flow import varying
from onnxptq.graph.edit import append, constant, set_input
from onnxptq.graph.model import Model

Axes = list[int | str | None]
LAST = int(np.iinfo(np.int64).max)
"""The end of a slice up to the last axis."""


def spread_learned(model: Model) -> bool:
    """Expand constant and narrower operands of attentions to the leading axes of the widest one.

    Then every operand is an ordinary tensor: it is observed sample by sample, and a fused op reads whole batches.
    """
    changing = varying(model)
    changed = False
    for softmax in [n for n in model.graph.nodes if n.op == "Softmax"]:
        found = scores(softmax, changing)
        if found is None:
            continue
        places = [(found.qk, 0), (found.qk, 1), (found.av, 1)]
        operands = [node.inputs[index] for node, index in places]
        if any(t.shape is None or len(t.shape) < 2 for t in operands):
            continue
        widest = _widest(operands)
        for (node, index), tensor in zip(places, operands, strict=True):
            if isinstance(tensor, gs.Constant) or _narrow(tensor, widest):
                set_input(node, index, _expanded(model, tensor, widest))
                changed = True
    if changed:
        model.graph.toposort()
    return changed


def _lead(tensor: gs.Tensor, rank: int) -> Axes:
    """The axes before the last two, filled up with ones."""
    return [*[1] * (rank - len(tensor.shape)), *tensor.shape[:-2]]


def _widest(operands: Sequence[gs.Tensor]) -> gs.Tensor:
    rank = max(len(t.shape) for t in operands)
    return max(
        operands, key=lambda t: (len(t.shape), sum(n != 1 for n in _lead(t, rank)), not isinstance(t, gs.Constant))
    )


def _narrow(tensor: gs.Tensor, widest: gs.Tensor) -> bool:
    """Whether the widest operand surely broadcasts the tensor: symbolic sizes may be equal at run time."""
    rank = len(widest.shape)
    pairs = zip(_lead(tensor, rank), _lead(widest, rank), strict=True)
    return len(tensor.shape) < rank or any(a == 1 and isinstance(b, int) and b > 1 for a, b in pairs)


def _expanded(model: Model, tensor: gs.Tensor, widest: gs.Tensor) -> gs.Tensor:
    base = model.unique(f"{tensor.name}_every")
    lead, own = widest.shape[:-2], list(tensor.shape[-2:])
    # Expand keys before their transposition, which only the product may read.
    like = operand(widest, transposed=True).tensor
    pieces = [
        constant(model, f"{base}_{part}", np.array(sizes, np.int64))
        if all(isinstance(n, int) for n in sizes)
        else append(model, "Shape", [source], base=f"{base}_{part}", start=start, end=end)
        for part, sizes, source, start, end in (("lead", lead, like, 0, -2), ("own", own, tensor, -2, LAST))
    ]
    shape = append(model, "Concat", pieces, base=f"{base}_shape", axis=0)
    spread = append(model, "Expand", [tensor, shape], like=tensor, base=base)
    spread.shape = [*lead, *own]
    return spread
