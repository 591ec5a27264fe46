"""Refuse models that are already quantized, recognised by their ops."""

from __future__ import annotations

from collections import Counter

import onnx_graphsurgeon as gs

from onnxptq.errors import InputError
from onnxptq.graph.model import Model
from onnxptq.graph.nested import nodes

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
OWN = "onnxptq"


def refuse_quantized(model: Model, name: str) -> None:
    """Raise an InputError if the model holds quantized ops."""
    ops = Counter(node.op for node in nodes(model.graph) if _coded(node))
    if any(node.domain == OWN for node in model.graph.nodes):
        raise InputError(f"{name}: is a quantized model written by onnxptq; give the float model it was made from")
    if ops:
        found = ", ".join(f"{count} {op}" for op, count in ops.most_common(3))
        raise InputError(f"{name}: is quantized already (it holds {found}); give the float model it was made from")


def _coded(node: gs.Node) -> bool:
    return node.op in CODED or node.op.startswith("QLinear")
