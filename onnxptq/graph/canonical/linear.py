"""Rewrite Gemm, and MatMul with its bias, as MatMul with constant [K, N] directly followed by Add."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.rewrite import Pattern, need
from onnxptq.graph.edit import append, constant, replace_output
from onnxptq.graph.model import Model, value


class Gemm(Pattern[gs.Tensor]):
    """alpha * A' B' + beta * C with constant B, and C constant or absent, becomes MatMul (+ Add)."""

    name = "Linear from Gemm"
    anchors = frozenset({"Gemm"})

    def check(self, node: gs.Node, model: Model) -> gs.Tensor:
        """The left operand."""
        need(value(node.inputs[1]) is not None, "B is no constant")
        return node.inputs[0]

    def rewrite(self, node: gs.Node, match: gs.Tensor, model: Model) -> None:
        """Multiply the factors into the constants."""
        weight = np.asarray(value(node.inputs[1]))
        if node.attrs.get("transB", 0):
            weight = np.ascontiguousarray(weight.T)
        alpha, beta = node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)
        if alpha != 1.0:
            weight = weight * weight.dtype.type(alpha)
        x = match
        if node.attrs.get("transA", 0):
            x = append(model, "Transpose", [x], base=f"{node.name}_transpose", perm=[1, 0])
        like = node.outputs[0]
        y = append(
            model,
            "MatMul",
            [x, constant(model, f"{node.inputs[1].name}_kn", weight)],
            like=like,
            base=f"{node.name}_matmul",
        )
        if len(node.inputs) > 2 and node.inputs[2].name:
            bias = node.inputs[2]
            held = value(bias)
            if held is not None:
                flat = held.reshape(-1) if held.size in (1, weight.shape[1]) and held.ndim < 3 else held
                flat = np.broadcast_to(flat, (weight.shape[1],)) if flat.size == 1 else flat
                bias = constant(model, f"{bias.name}_n", np.ascontiguousarray(flat) * flat.dtype.type(beta))
            elif beta != 1.0:
                factor = constant(model, f"{node.name}_beta", np.array(beta, dtype=np.float32))
                bias = append(model, "Mul", [bias, factor], base=f"{node.name}_scaled")
            y = append(model, "Add", [y, bias], like=like, base=f"{node.name}_bias")
        replace_output(model, node, 0, y)
        node.outputs.clear()


class Bias(Pattern[tuple[int, gs.Tensor]]):
    """Add(bias, MatMul) becomes Add(MatMul, bias) with a bias of shape [N]."""

    name = "bias behind MatMul"
    anchors = frozenset({"Add"})

    def check(self, node: gs.Node, model: Model) -> tuple[int, gs.Tensor]:
        """The position of the product among the inputs, and the bias."""
        for index in (0, 1):
            product, bias = node.inputs[index], node.inputs[1 - index]
            made = product.inputs[0] if len(product.inputs) == 1 else None
            held = value(bias)
            if made is None or made.op != "MatMul" or held is None:
                continue
            weight = value(made.inputs[1])
            if (
                weight is None
                or weight.ndim != 2
                or held.size != weight.shape[1]
                or held.shape[-1:] != (weight.shape[1],)
            ):
                continue
            need(index == 1 or held.ndim != 1, "already canonical")
            rank = len(product.shape) if product.shape is not None else 2
            need(held.ndim <= rank, "the bias adds dimensions")
            return index, bias
        need(False, "not a product with a constant and a bias as wide as it")
        raise AssertionError

    def rewrite(self, node: gs.Node, match: tuple[int, gs.Tensor], model: Model) -> None:
        """Put the product first, and flatten the bias."""
        index, bias = match
        product = node.inputs[index]
        held = np.asarray(value(bias))
        if held.ndim != 1:
            bias = constant(model, f"{bias.name}_flat", held.reshape(-1))
        node.inputs = [product, bias]
