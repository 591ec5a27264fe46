"""Expand products with fused transpositions, factors, biases and activations."""

from __future__ import annotations

from typing import Any

import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.contrib.writer import Expansion, Writer
from onnxptq.graph.canonical.rewrite import need

PLAIN = frozenset({"Relu", "Tanh", "Sigmoid", "HardSwish", "Softplus"})
"""Activations without parameters."""


def _matmul(write: Writer) -> list[gs.Tensor]:
    """alpha A' B', where ' may swap the last two axes or move the first axis after the batch axes."""
    operands = []
    flags = [(write.attr(f"trans{o}", 0), write.attr(f"transBatch{o}", 0)) for o in "AB"]
    ranks = [write.rank(write.required(i)) if any(flags[i]) else 0 for i in (0, 1)]
    for index, ((swap, batch), rank) in enumerate(zip(flags, ranks, strict=True)):
        x, perm = write.required(index), list(range(rank))
        if batch:
            perm = [*perm[1:-1], perm[0], perm[-1]]
        if swap:
            perm = [*perm[:-2], perm[-1], perm[-2]] if rank > 1 else perm
        operands.append(write("Transpose", x, perm=perm) if perm != list(range(rank)) else x)
    y, alpha = write("MatMul", *operands), float(write.attr("alpha", 1.0))
    return [y if alpha == 1.0 else write("Mul", y, write.like(y, alpha))]


def _gemm(write: Writer) -> list[gs.Tensor]:
    """Gemm with a fused activation."""
    parameters = [write.attr(f"activation_{name}", None) for name in ("alpha", "beta", "gamma")]
    finish = _activation(write, [p for p in parameters if p is not None])
    kept = {key: write.attr(key, None) for key in ("alpha", "beta", "transA", "transB")}
    y = write("Gemm", write.required(0), write.required(1), write.input(2), **_given(kept))
    return [finish(y)]


def _conv(write: Writer) -> list[gs.Tensor]:
    """Conv with a fused residual sum and activation."""
    finish = _activation(write, write.attr("activation_params", []))
    keys = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    kept = _given({key: write.attr(key, None) for key in keys})
    y, residual = write("Conv", write.required(0), write.required(1), write.input(2), **kept), write.input(3)
    return [finish(y if residual is None else write("Add", y, residual))]


def _nhwc_conv(write: Writer) -> list[gs.Tensor]:
    """Conv with channels last, in the weight too."""
    x, weight = write.required(0), write.required(1)
    need(write.rank(x) == 4, "not of four axes")
    keys = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
    kept = _given({key: write.attr(key, None) for key in keys})
    first = [0, 3, 1, 2]
    y = write("Conv", write("Transpose", x, perm=first), write("Transpose", weight, perm=first), write.input(2), **kept)
    return [write("Transpose", y, perm=[0, 2, 3, 1])]


def _bias_add(write: Writer) -> list[gs.Tensor]:
    """x + bias + skip."""
    return [write("Add", write("Add", write.required(0), write.required(1)), write.required(2))]


def _gemm_gelu(write: Writer) -> list[gs.Tensor]:
    """Gelu(A B + bias), by the hyperbolic tangent."""
    y, bias = write("MatMul", write.required(0), write.required(1)), write.input(2)
    return [write("Gelu", y if bias is None else write("Add", y, bias), approximate="tanh")]


def _bias_softmax(write: Writer) -> list[gs.Tensor]:
    """softmax(x + bias) over the last axis."""
    x, bias = write.required(0), write.required(1)
    rank = write.rank(x)
    need(write.attr("axis", 1) in (-1, rank - 1), "not over the last axis")
    need(write.attr("is_inner_broadcast", 1) == 1 or write.rank(bias) == rank, "the bias is repeated from inside")
    return [write("Softmax", write("Add", x, bias), axis=-1)]


def _activation(write: Writer, parameters: list[float]) -> Any:
    """The function that writes the node's activation."""
    op = write.attr("activation", "")
    if op in ("", "Identity"):
        return lambda y: y
    if op in PLAIN:
        return lambda y: write(op, y)
    if op == "LeakyRelu":
        return lambda y: write(op, y, alpha=parameters[0] if parameters else 0.01)
    if op == "HardSigmoid":
        alpha, beta = [*parameters, *(0.2, 0.5)[len(parameters) :]]
        return lambda y: write(op, y, alpha=alpha, beta=beta)
    need(op == "Clip" and len(parameters) == 2, f"activation {op}")
    low, high = parameters
    return lambda y: write("Clip", y, write.like(y, low), write.like(y, high))


def _given(attrs: dict[str, Any]) -> dict[str, Any]:
    return {key: held for key, held in attrs.items() if held is not None}


TABLE: dict[str, Expansion] = {
    "FusedMatMul": _matmul,
    "TransposeMatMul": _matmul,
    "FusedGemm": _gemm,
    "FusedConv": _conv,
    "NhwcConv": _nhwc_conv,
    "BiasAdd": _bias_add,
    "GemmFastGelu": _gemm_gelu,
    "BiasSoftmax": _bias_softmax,
}
