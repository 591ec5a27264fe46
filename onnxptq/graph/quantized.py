"""Refuse models that are already quantized, recognised by their ops."""

from __future__ import annotations

from collections import Counter

import onnx
import onnx_graphsurgeon as gs

from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from onnxptq.graph.nested import nodes, protos

CODED = frozenset(
    {
        "BlockwiseDequantizeLinear",
        "ConvInteger",
        "DequantizeLinear",
        "DequantizeWithOrder",
        "DynamicQuantizeLinear",
        "DynamicQuantizeLSTM",
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "MatMulBnb4",
        "MatMulInteger",
        "MatMulInteger16",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "MatMulNBitsMlp",
        "MatMulNBitsQkv",
        "QAttention",
        "QEmbedLayerNormalization",
        "QGemm",
        "QMoE",
        "QuantizeLinear",
    }
)
"""Quantized ops of the standard set and of onnxruntime; QLinear ops are recognised by their prefix."""
MOVING = frozenset({"Abs", "Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Ops between codes and a product that do not change its inputs' codes."""
OWN = "onnxptq"
MARK = "onnxptq.version"
"""Key of the metadata that all our files hold."""


def refuse_quantized(model: Model, name: str) -> None:
    """Raise an InputError if the model holds quantized ops."""
    ops = Counter(node.op for node in nodes(model.graph) if _coded(node))
    if any(node.domain == OWN for node in model.graph.nodes) or MARK in model.metadata:
        raise InputError(f"{name}: is a quantized model written by onnxptq; give the float model it was made from")
    if ops:
        found = ", ".join(f"{count} {op}" for op, count in ops.most_common(3))
        raise InputError(f"{name}: is quantized already (it holds {found}); give the float model it was made from")


def is_quantized(proto: onnx.ModelProto) -> bool:
    """Whether a message holds quantized ops."""
    return any(
        node.domain == OWN or node.op_type in CODED or node.op_type.startswith("QLinear")
        for graph in protos(proto.graph)
        for node in graph.node
    )


def _coded(node: gs.Node) -> bool:
    return node.op in CODED or node.op.startswith("QLinear")
