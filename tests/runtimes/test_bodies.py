"""The function bodies of single ops mean the same in every runtime: decoded weights and codes to the last bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from onnxptq.graph.model import IR_VERSION
from onnxptq.ops import DOMAIN, VERSION, specs
from onnxptq.ops.pack import store_weight

OPSET = 21
WIDTHS = range(2, 9)
rng = np.random.default_rng(5)


class Graph:
    """One model of many single nodes, so that a runtime starts once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: dict[str, NDArray[Any]] = {}
        self.constants: list[TensorProto] = []
        self.functions: dict[tuple[str, str], onnx.FunctionProto] = {}
        self.expected: dict[str, NDArray[Any]] = {}

    def constant(self, held: Any) -> str:
        tensor = TensorProto()
        tensor.CopyFrom(held if isinstance(held, TensorProto) else numpy_helper.from_array(np.asarray(held)))
        tensor.name = f"c{len(self.constants)}"
        self.constants.append(tensor)
        return tensor.name

    def input(self, array: NDArray[Any]) -> str:
        name = f"i{len(self.inputs)}"
        self.inputs[name] = array
        return name

    def node(self, op: str, inputs: list[str], outputs: list[str], rank: int = 0, **attributes: Any) -> None:
        spec = specs()[op]
        present = [bool(name) for name in inputs] + [False] * (len(spec.inputs) - len(inputs))
        overload = spec.overload(attributes, present, rank)
        self.functions[op, overload] = spec.function(attributes, present, rank, OPSET)
        node = helper.make_node(op, inputs, outputs, domain=DOMAIN, **spec.complete(attributes))
        node.overload = overload
        self.nodes.append(node)

    def model(self) -> onnx.ModelProto:
        values = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in self.inputs.items()]
        results = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in self.expected.items()]
        graph = helper.make_graph(self.nodes, "g", values, results, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, functions=list(self.functions.values()))
        onnx.checker.check_model(model, full_check=True)
        return model


def weights() -> Graph:
    """Stored weights of every width, odd sizes, each read by a MatMul and as it is."""
    graph = Graph()
    for bits in WIDTHS:
        codes = rng.integers(0, 2**bits, (7, 9)).astype(np.uint8)
        codes.flat[:2] = 0, 2**bits - 1
        scale = rng.uniform(0.01, 1, 9).astype(np.float32)
        zero = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 9).astype(np.int8)
        inputs = [graph.constant(held) for held in (store_weight(codes, bits), scale, zero)]
        graph.node("DequantizeWeight", inputs, [f"w{bits}"], bits=bits, axis=1, shape=[7, 9])
        value = ((codes.astype(np.float32) - 2 ** (bits - 1) - zero) * scale).astype(np.float32)
        graph.expected[f"w{bits}"] = value
        identity = np.eye(7, dtype=np.float32)
        graph.nodes.append(helper.make_node("MatMul", [graph.input(identity), f"w{bits}"], [f"m{bits}"]))
        graph.expected[f"m{bits}"] = value
    return graph


def activations() -> Graph:
    """Codes and ranges of rows with ties, zeros, infinities and NaN."""
    graph = Graph()
    x = (rng.normal(size=(5, 33)) * 3).astype(np.float32)
    x[1] = 0
    x[2, :3] = np.inf, np.nan, 1e38
    x[4, :2] = -np.inf, 1
    x[3] = (np.arange(33) - 16) * np.float32(0.125)
    for bits in WIDTHS:
        scale, zero = np.float32(0.25), np.uint8(2 ** (bits - 1))
        codes = np.asarray(specs()["QuantizeLinear"].reference(x, scale, zero, bits=bits))
        graph.node("QuantizeLinear", [graph.input(x), graph.constant(scale), graph.constant(zero)], [f"q{bits}"], rank=2, bits=bits)
        graph.node("DequantizeLinear", [f"q{bits}", graph.constant(scale), graph.constant(zero)], [f"d{bits}"], rank=2, bits=bits)
        graph.node("RowRange", [graph.input(x)], [f"s{bits}", f"z{bits}"], rank=2, bits=bits)
        row_scale, row_zero = specs()["RowRange"].reference(x, bits=bits)
        graph.expected[f"q{bits}"] = codes
        graph.expected[f"d{bits}"] = (codes.astype(np.float32) - np.float32(zero)) * scale
        graph.expected[f"s{bits}"], graph.expected[f"z{bits}"] = row_scale, row_zero
    return graph


@pytest.mark.parametrize("make", [weights, activations])
def test_onnxruntime_web(make: Any, web: Any) -> None:
    graph = make()
    for name, array in web(graph.model(), [graph.inputs])[0].items():
        np.testing.assert_array_equal(array, graph.expected[name], err_msg=name)


@pytest.mark.parametrize("make", [weights, activations])
def test_openvino(make: Any, openvino: Any) -> None:
    graph = make()
    for name, array in openvino(inliner.inline_local_functions(graph.model()), [graph.inputs])[0].items():
        np.testing.assert_allclose(array, graph.expected[name], rtol=3e-7, err_msg=name)
