"""Coverage: the products that a quantized file computes from codes, read off its graph, to compare rows of a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

CODED = {
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "QGemm",
    "ConvInteger",
    "QLinearConv",
}
PRODUCTS = {
    "MatMul",
    "Gemm",
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "QGemm",
}
CONVS = {"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"}
PASSING = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Flatten", "Slice", "Split", "Cast"}
SECOND = {"QLinearMatMul": 3, "QGemm": 3, "MatMulInteger": 1, "QLinearConv": 3}


@dataclass(frozen=True)
class Coverage:
    """Number of products of each kind: (both operands coded, all)."""

    linears: tuple[int, int]
    """Products with a constant weight."""
    products: tuple[int, int]
    """Products of two activations: q k^T and A V."""
    convs: tuple[int, int]

    def __str__(self) -> str:
        kinds = (("linears", self.linears), ("products", self.products), ("convs", self.convs))
        return ", ".join(f"{done}/{total} {name}" for name, (done, total) in kinds if total)


class _Reader:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.maker = {name: node for node in model.graph.node for name in node.output}
        self.ranks = {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}
        self.constants = {tensor.name for tensor in model.graph.initializer}
        """Tensors that depend on no input of the model; nodes come in topological order."""
        for node in model.graph.node:
            if all(name in self.constants for name in node.input if name):
                self.constants.update(node.output)

    def table(self, name: str) -> bool:
        """True if a constant is a stack of matrices, as of relative positions, and no weight."""
        while name not in self.ranks and name in self.maker and self.maker[name].input:
            name = self.maker[name].input[0]
        return self.ranks.get(name, 0) > 2

    def coded(self, name: str) -> bool:
        """True if a tensor is decoded from codes, up to a change of shape."""
        node = self.maker.get(name)
        while node is not None and node.op_type in PASSING:
            node = self.maker.get(node.input[0])
        return node is not None and ("DequantizeLinear" in node.op_type or node.op_type == "DequantizeWeight")


def coverage(model: onnx.ModelProto | Path) -> Coverage:
    """The coverage of a model. Functions are read as single ops."""
    if isinstance(model, Path):
        model = onnx.load(model, load_external_data=False)
    reader = _Reader(model)
    counts = {kind: [0, 0] for kind in ("linears", "products", "convs")}

    def count(kind: str, quantized: bool, times: int = 1) -> None:
        counts[kind][0] += times * quantized
        counts[kind][1] += times

    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type in ("QLinear", "QConv"):
            count("linears" if node.op_type == "QLinear" else "convs", attributes["x_bits"] > 0)
        elif node.domain == "onnxptq" and node.op_type == "QAttention":
            count("products", True, 2)
        elif node.domain == "onnxptq" and node.op_type == "QMatMul":
            count("products", True)
        elif node.op_type in PRODUCTS | CONVS:
            second = node.input[SECOND.get(node.op_type, 1)]
            quantized = node.op_type in CODED or (reader.coded(node.input[0]) and reader.coded(second))
            if node.op_type in CONVS:
                count("convs", quantized)
            elif second not in reader.constants:
                count("products", quantized)
            elif not reader.table(second):
                count("linears", quantized)
    return Coverage(*(tuple(counts[kind]) for kind in ("linears", "products", "convs")))
