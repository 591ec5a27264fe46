"""Recognise LayerNormalization in the chains of ReduceMean that exporters before opset 17 write."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.rewrite import Miss, Pattern, need
from onnxptq.graph.edit import append, constant, only_reader, producer, replace_output
from onnxptq.graph.model import Model, scalar, value


@dataclass(frozen=True)
class Chain:
    """The nodes and parameters of a decomposed LayerNorm."""

    x: gs.Tensor
    scale: gs.Tensor | None
    bias: gs.Tensor | None
    epsilon: float
    last: gs.Node


class LayerNorm(Pattern[Chain]):
    """Match (x - mean) / sqrt(mean((x - mean)^2) + eps) over the last axis, then an optional * scale and + bias."""

    name = "LayerNormalization"
    anchors = frozenset({"Div", "Mul"})

    def check(self, node: gs.Node, model: Model) -> Chain:
        """The whole chain, found from its division (or product with a reciprocal)."""
        centred, variance, epsilon = self._normalised(node)
        minus = producer(centred)
        need(minus is not None and minus.op == "Sub", "the numerator is no difference")
        assert minus is not None
        x, mean = minus.inputs
        need(_is_last_mean(mean) is x, "what is subtracted is not the mean over the last axis")
        squared = _is_last_mean(variance)
        need(squared is not None, "the variance is not a mean over the last axis")
        assert squared is not None
        need(_is_square_of(squared, centred, x, mean), "the variance is not that of the numerator")
        need(x.shape is not None and isinstance(x.shape[-1], int), "the width is not known")
        width = int(x.shape[-1])
        last, scale, bias = node, None, None
        following = only_reader(last.outputs[0], model)
        if following is not None and following.op == "Mul":
            scale = _vector(following, last.outputs[0], width)
            last = following if scale is not None else last
        following = only_reader(last.outputs[0], model) if scale is not None else None
        if following is not None and following.op == "Add":
            bias = _vector(following, last.outputs[0], width)
            last = following if bias is not None else last
        return Chain(x, scale, bias, epsilon, last)

    @staticmethod
    def _normalised(node: gs.Node) -> tuple[gs.Tensor, gs.Tensor, float]:
        """Numerator, variance and epsilon of the division."""
        for numerator, denominator in (node.inputs, reversed(node.inputs)) if node.op == "Mul" else (node.inputs,):
            made = producer(denominator)
            if node.op == "Mul":
                if made is None or made.op != "Reciprocal":
                    continue
                made = producer(made.inputs[0])
            if made is None or not (made.op == "Sqrt" or (made.op == "Pow" and scalar(made.inputs[1]) == 0.5)):
                continue
            plus = producer(made.inputs[0])
            if plus is None or plus.op != "Add":
                continue
            for variance, held in (plus.inputs, reversed(plus.inputs)):
                epsilon = scalar(held)
                if epsilon is not None:
                    return numerator, variance, epsilon
        raise Miss("no division by sqrt(variance + epsilon)")

    def rewrite(self, node: gs.Node, match: Chain, model: Model) -> None:
        """Write one LayerNormalization node; its scale is ones where the chain has none."""
        width = int(match.x.shape[-1])
        scale = match.scale
        if scale is None:
            scale = constant(model, f"{node.name}_scale", np.ones(width, dtype=np.float32))
        inputs = [match.x, scale] + ([match.bias] if match.bias is not None else [])
        y = append(
            model,
            "LayerNormalization",
            inputs,
            like=match.last.outputs[0],
            base=f"{match.last.name}_norm",
            axis=-1,
            epsilon=match.epsilon,
        )
        replace_output(model, match.last, 0, y)
        match.last.outputs.clear()


def _vector(node: gs.Node, known: gs.Tensor, width: int) -> gs.Tensor | None:
    """The constant [width] that a Mul or Add applies."""
    other = node.inputs[1] if node.inputs[0] is known else node.inputs[0]
    array = value(other)
    return other if array is not None and array.shape == (width,) else None


def _is_last_mean(tensor: gs.Tensor) -> gs.Tensor | None:
    """The input of a ReduceMean over the last axis with kept dimensions."""
    node = producer(tensor)
    if node is None or node.op != "ReduceMean" or not node.attrs.get("keepdims", 1):
        return None
    axes = value(node.inputs[1]) if len(node.inputs) > 1 else np.asarray(node.attrs.get("axes", []))
    source: gs.Tensor = node.inputs[0]
    if axes is None or axes.size != 1 or source.shape is None:
        return None
    return source if int(axes.reshape(())) % len(source.shape) == len(source.shape) - 1 else None


def _is_square_of(tensor: gs.Tensor, centred: gs.Tensor, x: gs.Tensor, mean: gs.Tensor) -> bool:
    node = producer(tensor)
    if node is None:
        return False

    def same(candidate: gs.Tensor) -> bool:
        # Old exporters write x - mean twice.
        made = producer(candidate)
        return candidate is centred or (
            made is not None and made.op == "Sub" and made.inputs[0] is x and _is_last_mean(made.inputs[1]) is x
        )

    if node.op == "Mul":
        return node.inputs[0] is node.inputs[1] and same(node.inputs[0])
    return node.op == "Pow" and scalar(node.inputs[1]) == 2.0 and same(node.inputs[0])
