"""Half-precision models become float32 inside."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.canonical.precision import widen
from onnxptq.graph.dataflow.elements import element_type
from onnxptq.graph.load import load
from tests.graph.build import model, normal, run


def halved(*, outer: str) -> onnx.ModelProto:
    kind = "float16" if outer == "half" else "float"
    first, last = ("", "") if outer == "half" else ("xh = Cast<to=10>(x) ", " y = Cast<to=1>(yh)")
    x, y = ("x", "y") if outer == "half" else ("xh", "yh")
    return model(
        f"g ({kind}[B,8] x) => ({kind}[B,8] y) {{ {first}p = MatMul({x}, w) q = Add(p, b) d = Div(q, r) e = Erf(d) s "
        f"= Add(e, one) "
        f"m = Mul(q, s) {y} = Mul(m, half){last} }}",
        w=normal(8, 8).astype(np.float16),
        b=normal(8).astype(np.float16),
        r=np.float16(2**0.5),
        one=np.float16(1),
        half=np.float16(0.5),
    )


@pytest.mark.parametrize("outer", ["half", "single"])
def test_computes_in_float32_and_keeps_its_interface(outer: str) -> None:
    proto = halved(outer=outer)
    held = canonicalise(load(proto))
    assert held.notes
    inside = [
        t for t in held.graph.tensors().values() if not any(t is o for o in (*held.graph.inputs, *held.graph.outputs))
    ]
    assert not [t for t in inside if element_type(t) == onnx.TensorProto.FLOAT16]
    assert "Gelu" in {n.op for n in held.graph.nodes}
    done = held.to_proto()
    onnx.checker.check_model(done, full_check=True)
    assert [i.type.tensor_type.elem_type for i in done.graph.input] == [
        i.type.tensor_type.elem_type for i in proto.graph.input
    ]
    x = normal(3, 8).astype(np.float16 if outer == "half" else np.float32)
    before, after = run(proto, {"x": x})[0], run(done, {"x": x})[0]
    assert before.dtype == after.dtype
    np.testing.assert_allclose(before.astype(np.float32), after.astype(np.float32), atol=2e-2)


def test_constants_in_attributes_are_widened() -> None:
    proto = model("g (float16[2] x, float16[2] c) => (float16[2] y) { y = Add(x, c) }")
    del proto.graph.input[1]
    held_inside = onnx.numpy_helper.from_array(np.array([1, 2], dtype=np.float16), "c")
    proto.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["c"], value=held_inside))
    held = load(proto)
    assert widen(held)
    kinds = {element_type(a) for n in held.graph.nodes for a in n.attrs.values() if isinstance(a, gs.Tensor)}
    assert kinds == {onnx.TensorProto.FLOAT}
    x = np.array([1, 2], dtype=np.float16)
    np.testing.assert_array_equal(run(held.to_proto(), {"x": x})[0], np.array([2, 4], dtype=np.float16))


def test_float32_models_are_left_alone() -> None:
    assert not canonicalise(
        load(model("g (float[B,8] x) => (float[B,8] y) { y = MatMul(x, w) }", w=normal(8, 8)))
    ).notes


def test_half_precision_inside_a_function() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "pkg" : 1]> g (float16[B,4] x) => (float16[B,4] y) { y = '
        "pkg.twice(x) }"
        '<domain: "pkg", opset_import: ["" : 18]> twice (x) => (y) '
        "{ k = Constant<value_float=2.0>() h = Cast<to=10>(k) y = Mul(x, h) }"
    )
    held = canonicalise(load(proto))
    assert [n.op for n in held.graph.nodes] == ["Cast", "Mul", "Cast"]
    x = normal(2, 4).astype(np.float16)
    np.testing.assert_array_equal(run(held.to_proto(), {"x": x})[0], 2 * x)
    again = canonicalise(held)
    assert [n.op for n in again.graph.nodes] == ["Cast", "Mul", "Cast"]
