"""Tensors that nodes read through their bodies, and graphs without nodes that no output needs."""

from __future__ import annotations

import onnx
from onnx import helper

from onnxptq.graph.reduce import reads, reduced

MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x, float[2] z, bool yes) => (float[2] y, float[2] far)
<float[2] used = {1, 2}, float[2] unused = {3, 4}>
{
    a = Neg(x)
    b = Exp(a)
    far = Mul(b, z)
    y = If (yes) <
        then_branch = t () => (float[2] inside) { inner = Add(a, used) inside = Neg(inner) },
        else_branch = e () => (float[2] other) { other = Identity(b) }
    >
}
"""


def names(held: object) -> list[str]:
    return [one.name for one in held]  # type: ignore[attr-defined]


def test_reads_through_bodies() -> None:
    node = onnx.parser.parse_model(MODEL).graph.node[-1]
    assert set(reads(node)) == {"yes", "a", "used", "b"}


def test_only_what_is_needed_is_left() -> None:
    proto = onnx.parser.parse_model(MODEL)
    graph = reduced(proto, [proto.graph.output[0]]).graph
    assert [node.op_type for node in graph.node] == ["Neg", "Exp", "If"]
    assert (names(graph.input), names(graph.initializer), names(graph.output)) == (["x", "yes"], ["used"], ["y"])
    onnx.checker.check_model(proto, full_check=True)
    graph = reduced(proto, [helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [2])]).graph
    assert [node.op_type for node in graph.node] == ["Neg"]
    assert (names(graph.input), names(graph.initializer), names(graph.output)) == (["x"], [], ["a"])
