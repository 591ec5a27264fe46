"""Expand Gelu variants."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.contrib.writer import Expansion, Writer


def _biased(write: Writer) -> gs.Tensor:
    x, bias = write.required(0), write.input(1)
    return x if bias is None else write("Add", x, bias)


def _gelu(write: Writer) -> list[gs.Tensor]:
    """Gelu(x + bias), by the error function."""
    return [write("Gelu", _biased(write), approximate="none")]


def _fast(write: Writer) -> list[gs.Tensor]:
    """Gelu(x + bias), by the hyperbolic tangent."""
    return [write("Gelu", _biased(write), approximate="tanh")]


def _quick(write: Writer) -> list[gs.Tensor]:
    """x sigmoid(alpha x)."""
    x, alpha = write.required(0), float(write.attr("alpha", 1.702))
    scaled = x if alpha == 1.0 else write("Mul", x, write.like(x, alpha))
    return [write("Mul", x, write("Sigmoid", scaled))]


def _split(write: Writer) -> list[gs.Tensor]:
    """First half of x + bias times Gelu of the second half."""
    both = write("Split", _biased(write), axis=-1, num_outputs=2)
    made = both.inputs[0]
    gate = gs.Variable(f"{both.name}_gate")
    made.outputs = [both, gate]
    return [write("Mul", both, write("Gelu", gate, approximate="none"))]


TABLE: dict[str, Expansion] = {
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": _fast,
    "QuickGelu": _quick,
    "BiasSplitGelu": _split,
}
