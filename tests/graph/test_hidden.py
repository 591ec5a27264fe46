"""Types and attributes that graphsurgeon loses pass through, and the nodes around them are still quantized."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.quantizer import Quantizer
from onnxptq.structure import discover
from tests.graph.build import normal, ops, run

WIDE = 8
WEIGHT = normal(WIDE, WIDE) / 3


def around(
    *inner: onnx.NodeProto,
    opset: int = 17,
    constants: list[onnx.TensorProto] | None = None,
    functions=(),  # type: ignore[no-untyped-def]
) -> onnx.ModelProto:
    """x -> Linear -> a -> ... -> b -> Linear -> y."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="first"),
        *inner,
        helper.make_node("MatMul", ["b", "w"], ["y"], name="second"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", WIDE])],
        [numpy_helper.from_array(WEIGHT, "w"), *(constants or [])],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))


def node(op: str, inputs: str, outputs: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def sparse() -> onnx.SparseTensorProto:
    values = numpy_helper.from_array(np.array([0.5, -1.0], np.float32), "s")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([1, 6]), "places"), [WIDE])


def function() -> onnx.FunctionProto:
    inner = [node("Mul", "u u", "v"), node("Relu", "v", "w")]
    return helper.make_function("local", "Square", ["u"], ["w"], inner, [helper.make_opsetid("", 17)])


def scan() -> onnx.GraphProto:
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [WIDE]) for name in ("h", "r")]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [WIDE]) for name in ("h2", "o")]
    return helper.make_graph([node("Add", "h r", "h2"), node("Identity", "h2", "o")], "body", row, made)


def text(*words: str) -> onnx.TensorProto:
    return helper.make_tensor("t", TensorProto.STRING, [len(words)], [w.encode() for w in words])


FLOAT = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
CASES: dict[str, onnx.ModelProto] = {
    "sequence": around(
        node("SequenceConstruct", "a a", "s"),
        node("Constant", "", "one", value_int=1),
        node("SequenceAt", "s one", "b"),
    ),
    "sequence of parts": around(
        node("SplitToSequence", "a", "s", axis=1), node("ConcatFromSequence", "s", "b", axis=1)
    ),
    "sparse": around(node("Constant", "", "s", sparse_value=sparse()), node("Add", "a s", "b")),
    "text": around(
        node("Constant", "", "word", value_strings=["7.5"]),
        node("Cast", "word", "number", to=TensorProto.FLOAT),
        node("Add", "a number", "b"),
    ),
    "text initialiser": around(
        node("Cast", "t", "number", to=TensorProto.FLOAT), node("Add", "a number", "b"), constants=[text("2.5")]
    ),
    "optional": around(node("Optional", "a", "o"), node("OptionalGetElement", "o", "b"), opset=18),
    "typed optional": around(
        node("Optional", "", "o", type=FLOAT),
        node("OptionalHasElement", "o", "has"),
        node("Cast", "has", "number", to=TensorProto.FLOAT),
        node("Add", "a number", "b"),
        opset=18,
    ),
    "scan": around(
        node("Constant", "", "zero", value_floats=[0.0] * WIDE),
        node("Scan", "zero a", "last b", body=scan(), num_scan_inputs=1),
    ),
    "function": around(helper.make_node("Square", ["a"], ["b"], domain="local"), functions=[function()]),
}


@pytest.mark.parametrize("kind", CASES)
def test_rare_types_pass_through(kind: str) -> None:
    proto, feeds = CASES[kind], {"x": normal(3, WIDE)}
    before = run(proto, feeds)[0]
    held = canonicalise(load(proto))
    for made in (held, held.copy(), canonicalise(held)):
        assert np.allclose(run(made.to_proto(), feeds)[0], before, atol=1e-6)
    assert len(discover(held).linears) == 2
    q = Quantizer(proto, recipe="minmax")
    q.calibrate([{"x": normal(64, WIDE, seed=s)} for s in range(3)])
    result = q.quantize()
    assert result.report.outputs["y"].sqnr > 25


def test_sparse_initialisers_become_dense() -> None:
    proto = around(node("Add", "a s", "b"))
    proto.graph.sparse_initializer.append(sparse())
    held = load(proto)
    assert np.array_equal(held.tensor("s").values, DENSE)


DENSE = np.array([0, 0.5, 0, 0, 0, 0, -1.0, 0], np.float32)


def test_a_size_below_zero_is_dynamic() -> None:
    proto = around(node("Relu", "a", "b"))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = -1
    held = canonicalise(load(proto))
    assert held.graph.inputs[0].shape == [None, WIDE]
    assert run(held.to_proto(), {"x": normal(3, WIDE)})[0].shape == (3, WIDE)


@pytest.mark.parametrize("kind", ["INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2"])
def test_narrow_constants_pass_through(kind: str) -> None:
    element = getattr(TensorProto, kind)
    codes = helper.make_tensor("codes", element, [WIDE], np.arange(WIDE) % 7, raw=False)
    inner = [node("Cast", "codes", "d", to=TensorProto.FLOAT), node("Add", "a d", "b")]
    proto, feeds = around(*inner, opset=21, constants=[codes]), {"x": normal(3, WIDE)}
    held = canonicalise(load(proto))
    assert ops(held)["Cast"] == 1
    assert np.allclose(run(held.to_proto(), feeds)[0], run(proto, feeds)[0], atol=1e-6)
    q = Quantizer(proto, recipe="minmax")
    q.calibrate([{"x": normal(64, WIDE, seed=s)} for s in range(3)])
    assert next(t for t in q.quantize().model.graph.initializer if t.name == "codes").data_type == element


@pytest.mark.parametrize("opset", range(9, 17))
def test_old_operator_sets(opset: int) -> None:
    inner = [node("Unsqueeze", "a", "u", axes=[1]), node("Squeeze", "u", "v", axes=[1])] if opset < 13 else []
    inner += [node("Softmax", "v" if inner else "a", "s", axis=1), node("Dropout", "s", "b")]
    proto, feeds = around(*inner, opset=opset), {"x": normal(3, WIDE)}
    proto.ir_version = 4
    held = canonicalise(load(proto))
    assert np.allclose(run(held.to_proto(), feeds)[0], run(proto, feeds)[0], atol=1e-6)


@pytest.mark.parametrize("opset", [22, 24, 26])
def test_new_operator_sets(opset: int) -> None:
    ones = numpy_helper.from_array(np.ones(WIDE, np.float32), "s")
    inner = [node("LayerNormalization", "a s", "b")] if opset < 23 else [node("RMSNormalization", "a s", "b")]
    proto, feeds = around(*inner, opset=opset, constants=[ones]), {"x": normal(3, WIDE)}
    held = canonicalise(load(proto))
    assert held.opset == opset
    assert np.allclose(run(held.to_proto(), feeds)[0], run(proto, feeds)[0], atol=1e-6)
