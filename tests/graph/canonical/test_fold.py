"""Folding stays within its limits: constants that would be large are not folded."""

from __future__ import annotations

import sys
import time

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from tests.graph.build import model, normal, ops, same


def adding(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    """A model that adds the scalar ``c``, which these nodes make."""
    proto = model("g (float[2,4] x) => (float[2,4] y) { p = MatMul(x, w) y = Relu(p) }", w=normal(4, 4))
    for name, array in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    plain = [onnx.NodeProto.FromString(node.SerializeToString()) for node in proto.graph.node]
    del proto.graph.node[:]
    proto.graph.node.extend([*nodes, *plain])
    proto.graph.node[-1].op_type = "Add"
    proto.graph.node[-1].input.append("c")
    return proto


SUM = helper.make_node("ReduceSum", ["big"], ["c"], keepdims=0)
CAST = helper.make_node("Cast", ["sum"], ["c"], to=onnx.TensorProto.FLOAT)


@pytest.mark.parametrize(
    ("op", "constants"),
    [
        ("ConstantOfShape", {"a": np.array([2**20, 2**20])}),
        ("ConstantOfShape", {"a": np.array([2**32, 2**32])}),
        ("Expand", {"a": np.ones(1, np.float32), "b": np.array([2**32, 2**32])}),
        ("Tile", {"a": np.ones(3, np.float32), "b": np.array([2**40])}),
        ("Pad", {"a": np.ones(3, np.float32), "b": np.array([2**40, 0])}),
        ("OneHot", {"a": np.array([1, 2]), "b": np.array(2**40), "v": np.array([0, 1], np.float32)}),
        ("Range", {"a": np.float32(0), "b": np.float32(1e12), "v": np.float32(1)}),
        ("Range", {"a": np.float32(0), "b": np.float32(1), "v": np.float32(0)}),
        ("Range", {"a": np.float32(0), "b": np.float32(np.inf), "v": np.float32(1)}),
    ],
)
def test_large_constants_made_of_small_ones_are_left(op: str, constants: dict[str, object]) -> None:
    begun = time.process_time()
    held = canonicalise(load(adding(helper.make_node(op, list(constants), ["big"]), SUM, **constants)))
    assert ops(held)[op] == 1
    assert time.process_time() - begun < 5


def test_small_ones_are_folded() -> None:
    proto = adding(
        helper.make_node("Range", ["a", "b", "s"], ["big"]), SUM, a=np.float32(0), b=np.float32(9), s=np.float32(2)
    )
    held = canonicalise(load(proto))
    assert set(ops(held)) == {"MatMul", "Add"}
    same(proto, held, {"x": normal(2, 4)})


def test_a_chain_that_doubles_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step alone is allowed; all of them together may take no more than the model's room."""
    monkeypatch.setattr(sys.modules["onnxptq.graph.canonical.fold"], "ROOM", 1 << 20)
    doublings = [helper.make_node("Concat", [f"d{i}"] * 2, [f"d{i + 1}"], axis=0) for i in range(30)]
    doublings[-1].output[0] = "big"
    held = canonicalise(load(adding(*doublings, SUM, d0=np.ones(1 << 12, np.float32))))
    assert ops(held)["Concat"] > 15
    assert sum(constant.values.nbytes for constant in held.constants()) < 2 << 20


def test_a_loop_of_constants_is_not_run() -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Sin", ["v"], ["r"])],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, []),
        ],
    )
    node = helper.make_node("Loop", ["n", "yes", "v0"], ["c"], body=body)
    held = canonicalise(load(adding(node, n=np.array(10**9), yes=np.array(True), v0=np.float32(1))))
    assert ops(held)["Loop"] == 1
