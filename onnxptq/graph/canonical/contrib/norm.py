"""Expand normalizations with fused residual sums."""

from __future__ import annotations

from collections.abc import Iterable

import onnx
import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.contrib.writer import Expansion, Writer
from onnxptq.graph.canonical.rewrite import need
from onnxptq.graph.edit import producer


def _simplified(write: Writer) -> list[gs.Tensor]:
    """x / sqrt(mean(x^2) + epsilon) * scale."""
    axis, x = int(write.attr("axis", -1)), write.required(0)
    axes = range(axis, 0 if axis < 0 else write.rank(x))
    return [_root_mean_square(write, x, write.required(1), write.attr("epsilon", 1e-5), axes)]


def _root_mean_square(
    write: Writer, x: gs.Tensor, scale: gs.Tensor, epsilon: float, axes: Iterable[int] = (-1,)
) -> gs.Tensor:
    mean = write("ReduceMean", write("Mul", x, x), write.ints(*axes), keepdims=1)
    return write("Mul", write("Div", x, write("Sqrt", write("Add", mean, write.like(x, epsilon)))), scale)


def _residual(write: Writer, bias: gs.Tensor | None) -> gs.Tensor:
    """input + skip + bias; the bias is added to whichever of the two comes from a product."""
    x, skip = write.required(0), write.required(1)
    if bias is not None:
        made = producer(skip)
        if made is not None and made.op == "MatMul":
            skip = write("Add", skip, bias)
        else:
            x = write("Add", x, bias)
    return write("Add", x, skip)


def _skip_layer(write: Writer) -> list[gs.Tensor | None]:
    """LayerNormalization of a residual sum; the sum is an output too."""
    total = _residual(write, write.input(4))
    epsilon = write.attr("epsilon", 1e-12)
    y = write("LayerNormalization", total, write.required(2), write.input(3), axis=-1, epsilon=epsilon)
    return [y, None, None, total]


def _skip_simplified(write: Writer) -> list[gs.Tensor | None]:
    """RMS normalization of a residual sum; the sum is an output too."""
    total = _residual(write, write.input(3))
    return [_root_mean_square(write, total, write.required(2), write.attr("epsilon", 1e-12)), None, None, total]


def _group(write: Writer) -> list[gs.Tensor]:
    """GroupNormalization with channels last or first, optionally followed by SiLU."""
    x, last = write.required(0), bool(write.attr("channels_last", 1))
    need(write.rank(x) == 4, "not of four axes")
    y = write("Transpose", x, perm=[0, 3, 1, 2]) if last else x
    held = onnx.TensorProto.FLOAT
    y = write("Cast", y, to=held)
    y = write(
        "GroupNormalization",
        y,
        write("Cast", write.required(1), to=held),
        write("Cast", write.required(2), to=held),
        num_groups=int(write.attr("groups", 32)),
        epsilon=write.attr("epsilon", 1e-5),
    )
    if write.attr("activation", 0):
        y = write("Mul", y, write("Sigmoid", y))
    y = write("CastLike", y, x)
    return [write("Transpose", y, perm=[0, 2, 3, 1]) if last else y]


TABLE: dict[str, Expansion] = {
    "SimplifiedLayerNormalization": _simplified,
    "SkipLayerNormalization": _skip_layer,
    "SkipSimplifiedLayerNormalization": _skip_simplified,
    "GroupNorm": _group,
}
