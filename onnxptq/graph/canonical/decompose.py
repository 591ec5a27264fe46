"""Inline function-like ops of newer operator sets that the canonical form does not have."""

from __future__ import annotations

import onnx
import onnx.inliner

DECOMPOSED = (("", "Attention"), ("", "RotaryEmbedding"), ("", "MeanVarianceNormalization"))
"""Ops replaced by their ONNX function definition."""


def decompose(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model with those ops inlined."""
    names = {("" if n.domain == "ai.onnx" else n.domain, n.op_type) for n in proto.graph.node}
    wanted = [key for key in DECOMPOSED if key in names]
    if not wanted:
        return proto
    typed = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    # The inliner needs the type of every operand, and finds those of initialisers only here.
    known = {v.name for v in (*typed.graph.value_info, *typed.graph.input)}
    for tensor in typed.graph.initializer:
        if tensor.name not in known:
            typed.graph.value_info.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    return onnx.inliner.inline_selected_functions(typed, wanted, exclude=False, inline_schema_functions=True)
