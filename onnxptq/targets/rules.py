"""Rules of runtimes about quantized files, each with the document that states it. Targets name theirs in their data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import uses_external_data

PAIR = ("QuantizeLinear", "DequantizeLinear")
UNKNOWN_TO_TENSORRT = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
PARSER = "ONNX-TensorRT, source of the importers of QuantizeLinear and DequantizeLinear"
MATRIX = "ONNX-TensorRT, Supported ONNX Operators (docs/operators.md)"
QNN = "ONNX Runtime documentation, QNN Execution Provider"


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    text: str
    source: str
    """Title of the document."""
    broken: Callable[[File], Iterator[str]]
    """Where a file breaks it, in words."""


@dataclass(frozen=True)
class Finding:
    """A rule that a file breaks."""

    rule: Rule
    places: tuple[str, ...]


class File:
    """A model file with what the rules ask about."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        self.graph = proto.graph
        self.constants: Mapping[str, TensorProto] = {one.name: one for one in proto.graph.initializer}
        self.made: Mapping[str, onnx.NodeProto] = {name: node for node in proto.graph.node for name in node.output}
        self.coders = [node for node in proto.graph.node if node.op_type in PAIR and node.domain == ""]

    def array(self, name: str) -> NDArray[np.generic] | None:
        """The values of a constant; None for other tensors, and for values outside the file."""
        if name in self.constants:
            if uses_external_data(self.constants[name]):
                return None
            return np.asarray(numpy_helper.to_array(self.constants[name]))
        node = self.made.get(name)
        held = [a.t for a in node.attribute if a.name == "value"] if node and node.op_type == "Constant" else []
        return np.asarray(numpy_helper.to_array(held[0])) if held else None

    def kind(self, node: onnx.NodeProto) -> int:
        """The type of a node's codes; UINT8 without a zero-point."""
        if node.op_type == "DequantizeLinear" and node.input[0] in self.constants:
            return self.constants[node.input[0]].data_type
        zero = node.input[2] if len(node.input) > 2 else ""
        if zero in self.constants:
            return self.constants[zero].data_type
        array = self.array(zero) if zero else None
        return helper.np_dtype_to_tensor_dtype(array.dtype) if array is not None else TensorProto.UINT8

    def is_weight(self, node: onnx.NodeProto) -> bool:
        """Whether a DequantizeLinear reads a constant."""
        held = node.input[0] in self.constants or self.array(node.input[0]) is not None
        return node.op_type == "DequantizeLinear" and held


def check(proto: onnx.ModelProto, names: tuple[str, ...]) -> list[Finding]:
    """The rules of these names that a model breaks."""
    file = File(proto)
    found = ((rule, tuple(rule.broken(file))) for rule in (RULES[name] for name in names))
    return [Finding(rule, places) for rule, places in found if places]


def _type(number: int) -> str:
    return str(TensorProto.DataType.Name(number))


def _foreign(file: File) -> Iterator[str]:
    for node in file.graph.node:
        if node.domain not in ("", "ai.onnx"):
            yield f"{node.name or node.output[0]}: op {node.domain}.{node.op_type}"


def _unknown(file: File) -> Iterator[str]:
    for node in file.graph.node:
        if node.op_type in UNKNOWN_TO_TENSORRT:
            yield f"{node.name or node.output[0]}: {node.op_type}"


def _shifted(file: File) -> Iterator[str]:
    for node in file.coders:
        zero = file.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is not None and np.asarray(zero, np.int32).any():
            yield f"{node.name or node.output[0]}: zero-point {int(np.asarray(zero, np.int32).reshape(-1)[0])}"


def _not_int8(file: File) -> Iterator[str]:
    for node in file.coders:
        if (kind := file.kind(node)) != TensorProto.INT8:
            yield f"{node.name or node.output[0]}: {_type(kind)} codes"


def _by_channel(file: File) -> Iterator[str]:
    for node in file.coders:
        scale = file.array(node.input[1])
        if not file.is_weight(node) and scale is not None and scale.size > 1:
            yield f"{node.name or node.output[0]}: {scale.size} scales of an activation"


def _scales(file: File) -> Iterator[str]:
    for node in file.coders:
        scale, codes = file.array(node.input[1]), file.array(node.input[0])
        if scale is None:
            continue
        if not (np.asarray(scale, np.float64) > 0).all():
            yield f"{node.name or node.output[0]}: a scale is not positive"
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        if codes is not None and scale.size > 1 and codes.shape[axis] != scale.size:
            yield f"{node.name or node.output[0]}: {scale.size} scales for {codes.shape[axis]} channels"


def _open_sizes(file: File) -> Iterator[str]:
    for value in file.graph.input:
        sizes = value.type.tensor_type.shape.dim
        if value.name not in file.constants and any(not size.HasField("dim_value") for size in sizes):
            yield f"input {value.name}"


def _shifted_weights(file: File) -> Iterator[str]:
    for node in file.coders:
        zero = file.array(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        kind = file.kind(node)
        wrong = kind in (TensorProto.UINT8, TensorProto.UINT4) or (
            zero is not None and np.asarray(zero, np.int32).any()
        )
        if file.is_weight(node) and wrong:
            yield f"{node.name or node.output[0]}: {_type(kind)} weights, or a zero-point"


def _not_uint(file: File) -> Iterator[str]:
    for node in file.coders:
        kind = file.kind(node)
        if not file.is_weight(node) and kind not in (TensorProto.UINT8, TensorProto.UINT16):
            yield f"{node.name or node.output[0]}: {_type(kind)} activations"


RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("standard-ops", "ops of other domains need a plug-in or are refused", MATRIX, _foreign),
        Rule("standard-ops-qnn", "ops of other domains are refused", f"{QNN}, Supported ONNX operators", _foreign),
        Rule(
            "standard-ops-openvino",
            "ops of other domains are refused",
            "OpenVINO documentation, Supported Operations, ONNX",
            _foreign,
        ),
        Rule(
            "fixed-point-ops",
            "integer ops other than QuantizeLinear and DequantizeLinear are refused",
            MATRIX,
            _unknown,
        ),
        Rule("zero-points", "only symmetric codes: every zero-point is 0", f"{MATRIX}; {PARSER}", _shifted),
        Rule("int8", "codes are INT8; UINT8 and INT32 are no types of quantized tensors", PARSER, _not_int8),
        Rule("tensor-scales", "activations have one scale", PARSER, _by_channel),
        Rule("scales", "scales are positive, and one for each output channel", PARSER, _scales),
        Rule("fixed-shapes", "inputs have fixed sizes", QNN, _open_sizes),
        Rule("symmetric-weights", "weights are INT8 with zero-point 0", f"{QNN}, quantized models", _shifted_weights),
        Rule("unsigned-activations", "activations are UINT8 or UINT16", f"{QNN}, quantized models", _not_uint),
    )
}
