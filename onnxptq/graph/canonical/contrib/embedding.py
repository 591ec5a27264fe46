"""Expand EmbedLayerNormalization: the sum of embeddings at the start of a text encoder."""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from onnxptq.graph.canonical.contrib.writer import Expansion, Writer


def _embed(write: Writer) -> list[gs.Tensor | None]:
    """LayerNormalization of word, position and segment embeddings; length of each mask row; the sum."""
    ids, segments, positions = write.required(0), write.input(1), write.input(8)
    total = write("Gather", write.required(2), ids, axis=0)
    if positions is not None:
        place = write("Gather", write.required(3), positions, axis=0)
    else:
        length = write("Shape", ids, start=1, end=2)
        place = write(
            "Unsqueeze", write("Slice", write.required(3), write.ints(0), length, write.ints(0)), write.ints(0)
        )
    total = write("Add", total, place)
    if segments is not None:
        total = write("Add", total, write("Gather", write.required(4), segments, axis=0))
    epsilon = write.attr("epsilon", 1e-12)
    y = write("LayerNormalization", total, write.required(5), write.required(6), axis=-1, epsilon=epsilon)
    return [y, _lengths(write, ids) if write.wants(1) else None, total]


def _lengths(write: Writer, ids: gs.Tensor) -> gs.Tensor:
    """The number of unmasked tokens in each row; 0 without a mask."""
    mask = write.input(7)
    whole = onnx.TensorProto.INT32
    if mask is None:
        zero = write.number([0], "int32")
        return write("Expand", zero, write("Shape", ids, start=0, end=1))
    return write("ReduceSum", write("Cast", mask, to=whole), write.ints(1), keepdims=0)


TABLE: dict[str, Expansion] = {"EmbedLayerNormalization": _embed}
