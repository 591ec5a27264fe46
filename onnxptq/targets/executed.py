"""The products of a file that a runtime multiplies in integers and those it leaves in floats, with the reason."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from onnxptq.graph.quantized import MOVING
from onnxptq.running.runtimes import compiled_by_openvino
from onnxptq.running.sessions import library_path, session
from onnxptq.targets.target import Target

INTEGER = frozenset(
    {
        "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QAttention",
        "QGemm", "QLinearConv", "QLinearMatMul", "QLinear", "QConv", "QMatMul",
    }
)  # fmt: skip
"""Ops of onnxruntime and of our library whose products are integer products."""
FLOAT = frozenset(
    {
        "Attention", "Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul",
        "MultiHeadAttention",
    }
)  # fmt: skip
PLAIN = "no operand is coded: out of scope, or left in float for this target"
ONE = "one operand is coded, the other is not"
OUTPUT = "both operands are coded, its output is not, or the runtime has no kernel for these codes"


@dataclass(frozen=True)
class Executed:
    """The products of a file in one runtime."""

    by: str
    """How this is known."""
    integer: Mapping[str, int]
    """Number of integer products by op."""
    floats: Mapping[str, int]
    reasons: Mapping[str, int]
    """Why products are in floats, and how many."""


def executed(proto: onnx.ModelProto, target: Target) -> Executed:
    """The products of a file for a target."""
    if target.name in ("onnxptq", "onnxruntime", "web"):
        return _by_onnxruntime(proto, native=target.name == "onnxptq" and library_path() is not None)
    if target.name == "openvino" and find_spec("openvino") is not None:
        return _by_openvino(proto)
    return _by_rule(proto, outputs=target.name == "qnn", name=target.name)


def _by_onnxruntime(proto: onnx.ModelProto, *, native: bool) -> Executed:
    """Read from the graph that onnxruntime's optimizer writes."""
    with tempfile.TemporaryDirectory(prefix="onnxptq-") as folder:
        path = Path(folder) / "optimised.onnx"
        session(proto, executor="native" if native else "function", threads=1, optimised=path)
        graph = onnx.load(str(path), load_external_data=False).graph
    return _counted(graph, "onnxruntime's optimised graph" + (" with our library" if native else ""))


def _by_openvino(proto: onnx.ModelProto) -> Executed:
    """Read from OpenVINO's execution graph: the precision of each layer."""
    integer: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    for layer in compiled_by_openvino(proto).get_runtime_model().get_ops():
        info: Any = layer.get_rt_info()
        kind, precision = str(info["layerType"].value), str(info["runtimePrecision"].value)
        if kind in ("FullyConnected", "MatMul", "Convolution", "Deconvolution"):
            (integer if precision in ("i8", "u8") else floats)[kind] += 1
    reasons = {"float32 in OpenVINO's execution graph": sum(floats.values())} if floats else {}
    return Executed("OpenVINO's execution graph", integer, floats, reasons)


def _by_rule(proto: onnx.ModelProto, *, outputs: bool, name: str) -> Executed:
    """By the documented rule: codes at the inputs of a product (``outputs``: and at its output) make it an integer one.

    Nothing is run.
    """
    by = f"the documented rule of {name}; not run"
    return _counted(proto.graph, by, ruled=True, outputs=outputs)


def _counted(graph: onnx.GraphProto, by: str, *, ruled: bool = False, outputs: bool = False) -> Executed:
    made = {output: node for node in graph.node for output in node.output}
    coded = {node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    integer: Counter[str] = Counter()
    floats: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for node in graph.node:
        if node.op_type in INTEGER:
            integer[node.op_type] += 1
        elif node.op_type in FLOAT:
            sides = sum(_is_coded(made, name) for name in node.input[:2])
            if ruled and sides == 2 and (not outputs or node.output[0] in coded):
                integer[node.op_type] += 1
                continue
            floats[node.op_type] += 1
            reasons[(PLAIN, ONE, OUTPUT)[sides]] += 1
    return Executed(by, dict(integer), dict(floats), dict(reasons))


def _is_coded(made: Mapping[str, onnx.NodeProto], name: str) -> bool:
    while name in made and made[name].op_type in MOVING:
        name = made[name].input[0]
    return name in made and made[name].op_type == "DequantizeLinear"
