"""The function bodies of all ops compute the same values in every runtime, on equal inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper

from onnxptq.graph.model import IR_VERSION
from onnxptq.ops import DOMAIN, VERSION, schemes, specs
from onnxptq.ops.pack import store_weight
from tests.ops.cases import CASES

OPSET = 21
WIDTHS = range(2, 9)
EXACT, CLOSE, LOOSE = "to the last bit", "to 1e-5 of the largest", "to 1e-5 of the largest but for flipped codes"


class Graph:
    """One model of many single nodes, so that a runtime starts once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: dict[str, NDArray[Any]] = {}
        self.constants: list[TensorProto] = []
        self.functions: dict[tuple[str, str], onnx.FunctionProto] = {}
        self.expected: dict[str, tuple[NDArray[Any], str, str]] = {}

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

    def output(self, name: str, wanted: Any, how: str, label: str) -> str:
        self.expected[name] = (np.asarray(wanted), how, label)
        return name

    def node(self, op: str, inputs: list[str | None], outputs: list[str], rank: int, **attributes: Any) -> None:
        node, function = specs()[op].call(
            inputs, outputs, name=f"n{len(self.nodes)}", rank=rank, opset=OPSET, **attributes
        )
        self.functions[op, node.overload] = function
        self.nodes.append(node)

    def model(self) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in self.inputs.items()
        ]
        outputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, (a, _, _) in self.expected.items()
        ]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        return helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, functions=list(self.functions.values())
        )

    def check(self, got: dict[str, NDArray[Any]], *, exact: bool) -> None:
        assert list(got) == list(self.expected)
        for name, (wanted, how, label) in self.expected.items():
            if how == EXACT and exact:
                np.testing.assert_array_equal(got[name], wanted, err_msg=label)
                continue
            error = np.abs(got[name].astype(np.float64) - wanted)
            assert np.isfinite(error).all(), label
            wrong = error > 1e-5 * np.abs(wanted).max()
            few = max(1, 0.02 * wrong[..., 0].size) if how == LOOSE or not exact else 0
            rows = int(wrong.any(-1).sum()) if wrong.ndim else int(wrong)
            assert rows <= few, f"{label}: {rows} of {wrong.size} rows differ"


def weights() -> Graph:
    """Stored weights of every width, odd sizes, as they are and read by a MatMul, which runtimes treat in their own
    ways."""
    graph, rng = Graph(), np.random.default_rng(5)
    for bits in WIDTHS:
        codes = rng.integers(0, 2**bits, (7, 9)).astype(np.uint8)
        codes.flat[:2] = 0, 2**bits - 1
        scale = rng.uniform(0.01, 1, 9).astype(np.float32)
        zero = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), 9).astype(np.int8)
        value = ((codes.astype(np.float32) - 2 ** (bits - 1) - zero) * scale).astype(np.float32)
        inputs = [graph.constant(held) for held in (store_weight(codes, bits), scale, zero)]
        graph.node(
            "DequantizeWeight",
            [*inputs],
            [graph.output(f"w{bits}", value, EXACT, f"{bits} bits")],
            2,
            bits=bits,
            axis=1,
            shape=[7, 9],
        )
        product = graph.output(f"m{bits}", value, EXACT, f"{bits} bits behind MatMul")
        graph.nodes.append(
            helper.make_node("MatMul", [graph.input(np.eye(7, dtype=np.float32)), f"w{bits}"], [product])
        )
    return graph


def pairs() -> Graph:
    """Codes and values of every scheme, with ties, zeros, infinities and NaN."""
    graph, rng = Graph(), np.random.default_rng(6)
    x = (rng.normal(size=(5, 33))).astype(np.float32)
    x[1] = 0
    x[2, :3] = np.inf, np.nan, 1e38
    x[3] = (np.arange(33) - 16) * np.float32(0.0625)
    x[4, :2] = -np.inf, 1
    for name, scheme in schemes().items():
        for bits in (3, 4, 6, 8):
            found = list(scheme.grid(-2.0, 2.0, bits))
            if scheme.ops is None or not found:
                continue
            p = found[len(found) // 2]
            given = p.inputs().values()
            codes = specs()[f"{scheme.ops}QuantizeLinear"].reference(x, *given, bits=bits, **p.attributes())
            values = specs()[f"{scheme.ops}DequantizeLinear"].reference(codes, *given, bits=bits, **p.attributes())
            label, constants = f"{name} {bits}", [graph.constant(array) for array in given]
            first, second = (
                graph.output(f"{name}{bits}c", codes, EXACT, label),
                graph.output(f"{name}{bits}v", values, EXACT, label),
            )
            graph.node(
                f"{scheme.ops}QuantizeLinear", [graph.input(x), *constants], [first], 2, bits=bits, **p.attributes()
            )
            graph.node(f"{scheme.ops}DequantizeLinear", [first, *constants], [second], 2, bits=bits, **p.attributes())
    return graph


def cases(op: str) -> Callable[[], Graph]:
    """The examples of one op."""

    def make() -> Graph:
        graph = Graph()
        for number, case in enumerate(case for case in CASES if case.op == op):
            names: list[str | None] = []
            for i, value in enumerate(case.inputs):
                constant = i in case.constants or isinstance(value, TensorProto)
                names.append(None if value is None else graph.constant(value) if constant else graph.input(value))
            arrays = [numpy_helper.to_array(v) if isinstance(v, TensorProto) else v for v in case.inputs]
            result = specs()[op].reference(*arrays, **case.attributes)
            how = LOOSE if case.loose else CLOSE
            outputs = [
                graph.output(f"y{number}_{i}", one, how, str(case))
                for i, one in enumerate(result if isinstance(result, tuple) else (result,))
            ]
            first = case.inputs[0]
            graph.node(op, names, outputs, first.ndim if isinstance(first, np.ndarray) else 0, **case.attributes)
        return graph

    make.__name__ = op
    return make


GRAPHS = [weights, pairs, *(cases(op) for op in dict.fromkeys(case.op for case in CASES))]


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
def test_onnxruntime_web(make: Callable[[], Graph], web: Any) -> None:
    graph = make()
    graph.check(web(graph.model(), [graph.inputs])[0], exact=True)


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
def test_openvino(make: Callable[[], Graph], openvino: Any) -> None:
    graph = make()
    graph.check(openvino(inliner.inline_local_functions(graph.model()), [graph.inputs])[0], exact=False)
