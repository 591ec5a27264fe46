"""Graphs inside nodes: loaded with their data, inlined where the condition is known, kept where it is not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from onnxptq.report.left import hidden
from onnxptq.structure import discover
from tests.graph.build import normal, ops, run, same

WIDE = 72
"""WIDE * WIDE elements are more than a tensor that is followed, or kept inside the message."""


def value_info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def branching(*, known: bool, opset: int = 17) -> onnx.ModelProto:
    """x w0 -> If (big: times w1, plus b; else: minus itself) -> w0, where the weights of the branch lie outside."""
    then = helper.make_graph(
        [
            helper.make_node("MatMul", ["p", "w1"], ["t"]),
            helper.make_node("Add", ["t", "b"], ["r"]),
        ],
        "then",
        [],
        [value_info("r", "n", WIDE)],
        [numpy_helper.from_array(normal(WIDE, seed=5), "b")],
    )
    other = helper.make_graph(
        [helper.make_node("Mul", ["p", "b"], ["r"])],
        "else",
        [],
        [value_info("r", "n", WIDE)],
        [numpy_helper.from_array(normal(1, seed=6), "b")],
    )
    test = (
        [helper.make_node("Constant", [], ["big"], value=numpy_helper.from_array(np.array(True)))]
        if known
        else [
            helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
            helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.array(1.0, np.float32))),
            helper.make_node("Greater", ["top", "one"], ["big"]),
        ]
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["p"]),
        *test,
        helper.make_node("If", ["big"], ["q"], then_branch=then, else_branch=other),
        helper.make_node("MatMul", ["q", "w1"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [value_info("x", "n", WIDE)],
        [value_info("y", "n", WIDE)],
        [numpy_helper.from_array(normal(WIDE, WIDE, seed=s) / 6, f"w{s}") for s in (0, 1)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(proto)
    return proto


FEEDS = [{"x": np.full((3, WIDE), 2.0, np.float32)}, {"x": -(normal(3, WIDE) ** 2)}]


@pytest.mark.parametrize("opset", [11, 17, 21])
@pytest.mark.parametrize("known", [True, False])
def test_branches_that_read_outer_weights(known: bool, opset: int) -> None:
    proto = branching(known=known, opset=opset)
    held = canonicalise(load(proto))
    assert ops(held)["If"] == (not known)
    assert ops(held)["MatMul"] == (3 if known else 2)
    for feeds in FEEDS:
        same(proto, held, feeds)
        same(proto, canonicalise(held), feeds)
        same(proto, held.copy(), feeds)


def test_a_weight_is_stored_once() -> None:
    proto = canonicalise(load(branching(known=False)).copy()).to_proto()
    assert proto.ByteSize() < 2.5 * 4 * WIDE * WIDE


def test_the_rank_behind_a_branch_is_known() -> None:
    held = canonicalise(load(branching(known=False)))
    branch = next(node for node in held.graph.nodes if node.op == "If")
    assert branch.outputs[0].shape == ["n", WIDE]
    assert len(discover(held).linears) == 2


def test_what_stays_in_a_branch_is_said() -> None:
    structure = discover(canonicalise(load(branching(known=False))))
    assert structure.hidden == {"If": 1}
    assert len(hidden(structure)) == 1


def test_external_data_inside_a_branch(tmp_path) -> None:  # type: ignore[no-untyped-def]
    proto = branching(known=False)
    path = tmp_path / "m.onnx"
    onnx.save_model(branching(known=False), str(path), save_as_external_data=True, location="m.data", size_threshold=0)
    same(proto, canonicalise(load(path)), FEEDS[0])


def test_names_made_later_are_not_those_inside() -> None:
    held = Model.from_proto(branching(known=False))
    assert held.unique("t") != "t"


def test_a_loop_keeps_its_body() -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["h", "w1"], ["m"]),
            helper.make_node("Add", ["m", "p"], ["h_next"]),
            helper.make_node("Identity", ["going"], ["going_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            value_info("h", "n", WIDE),
        ],
        [helper.make_tensor_value_info("going_on", TensorProto.BOOL, []), value_info("h_next", "n", WIDE)],
    )
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w0"], ["p"]),
            helper.make_node("Loop", ["times", "", "p"], ["q"], body=body),
            helper.make_node("MatMul", ["q", "w1"], ["y"]),
        ],
        "g",
        [value_info("x", "n", WIDE)],
        [value_info("y", "n", WIDE)],
        [
            *(numpy_helper.from_array(normal(WIDE, WIDE, seed=s) / 6, f"w{s}") for s in (0, 1)),
            numpy_helper.from_array(np.array(3), "times"),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    held = canonicalise(load(proto))
    same(proto, held, FEEDS[0])
    assert discover(held).hidden == {"Loop": 1}
    assert run(held.to_proto(), FEEDS[0])[0].shape == (3, WIDE)
