"""Canonicalization: graphs of many exporters rewritten to one form."""

from __future__ import annotations

from typing import Any

from onnxptq.graph.canonical.contrib import expand
from onnxptq.graph.canonical.einsum import Einsum
from onnxptq.graph.canonical.fold import fold
from onnxptq.graph.canonical.gelu import Gelu
from onnxptq.graph.canonical.late_transpose import LateSwap
from onnxptq.graph.canonical.layer_norm import LayerNorm
from onnxptq.graph.canonical.learned import spread_learned
from onnxptq.graph.canonical.linear import Bias, Gemm
from onnxptq.graph.canonical.masked_fill import MaskedFill
from onnxptq.graph.canonical.nan_guard import NanGuard
from onnxptq.graph.canonical.operands import HeadScale, KeyTranspose, LateScale
from onnxptq.graph.canonical.opset import modernise
from onnxptq.graph.canonical.precision import widen
from onnxptq.graph.canonical.relative import Relative
from onnxptq.graph.canonical.rewrite import Pattern, apply
from onnxptq.graph.canonical.unique_names import name_nodes
from onnxptq.graph.canonical.unshare import unshare
from onnxptq.graph.canonical.windows import Windows
from onnxptq.graph.dataflow.shapes import infer
from onnxptq.graph.model import Model
from onnxptq.graph.nested import fence

PATTERNS: tuple[Pattern[Any], ...] = (
    Gemm(),
    Bias(),
    LayerNorm(),
    Gelu(),
    Einsum(),
    MaskedFill(),
    NanGuard(),
    LateSwap(),
    LateScale(),
    HeadScale(),
    KeyTranspose(),
    Windows(),
    Relative(),
)

ROUNDS = 8
"""Rounds of rewriting: one pattern may uncover another. The models tried need three rounds at most."""


def canonicalise(model: Model) -> Model:
    """Return an equivalent model in canonical form.

    Opset 21 or later, functions inlined, half precision computed in float32 (inputs and outputs keep their types),
    constants folded, shapes inferred with symbols for dynamic dimensions, unique node names. Linear = MatMul with
    constant [K, N] weight, directly followed by an Add of a constant bias. Gelu and LayerNormalization are one node.
    Attention = MatMul -> scalar Mul/Div -> Add ... -> Softmax(axis=-1) -> MatMul; operands have equal leading axes.
    """
    modern = modernise(model)
    model = modern if modern is not model else model.copy()
    name_nodes(model)
    fence(model.graph)
    expand(model)
    widen(model)
    fold(model)
    for _ in range(ROUNDS):
        changed = False
        for pattern in PATTERNS:
            if apply(model, pattern):
                fold(model)
                changed = True
        if not changed:
            break
    unshare(model)
    infer(model)
    if spread_learned(model):
        infer(model)
    return model
