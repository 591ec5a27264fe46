"""Old operator sets raised, local functions inlined, control flow and foreign ops still working."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from tests.graph.build import model, normal, ops, preserved, run, same


@pytest.mark.parametrize("opset", [9, 11, 13, 17, 20, 21, 22, 23])
def test_opsets(opset: int) -> None:
    proto = model(
        "g (float[B,3,8] x) => (float[B,3,8] y) { p = MatMul(x, w) q = Add(b, p) y = Softmax<axis=2>(q) }",
        opset=opset,
        w=normal(80, 8)[:8],
        b=normal(8),
    )
    held = preserved(proto, {"x": normal(2, 3, 8)})
    assert held.opset == max(opset, 21)
    assert held.to_proto().ir_version == 10


def test_large_weights_stay_out_of_the_conversion() -> None:
    proto = model("g (float[B,96] x) => (float[B,96] y) { p = MatMul(x, w) y = Relu(p) }", opset=13, w=normal(96, 96))
    held = load(proto)
    weight = next(c for c in held.constants())._values
    again = next(c for c in canonicalise(held).constants())._values
    assert np.shares_memory(weight, again)


def test_softmax_of_old_opsets_flattens() -> None:
    proto = model("g (float[2,3,8] x) => (float[2,3,8] y) { y = Softmax<axis=1>(x) }", opset=11)
    preserved(proto, {"x": normal(2, 3, 8)})


def test_what_cannot_be_raised_is_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(proto: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError("No Adapter\nfor Op")

    monkeypatch.setattr("onnx.version_converter.convert_version", refuse)
    with pytest.raises(InputError, match="opset 9 to 21: No Adapter for Op") as caught:
        canonicalise(load(model("g (float[3] x) => (float[3] y) { y = Relu(x) }", opset=9)))
    assert "\n" not in str(caught.value)


def test_upsampling_of_old_opsets() -> None:
    proto = model(
        "g (float[1,1,2,2] x) => (float[1,1,4,4] y) { y = Upsample(x, s) }",
        opset=9,
        s=np.array([1, 1, 2, 2], dtype=np.float32),
    )
    preserved(proto, {"x": normal(1, 1, 2, 2)})


def test_local_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "local" : 1]>'
        "g (float[B,4] x) => (float[B,4] y) { p = local.twice<scale=3.0>(x) y = local.twice<scale=2.0>(p) }"
        '<domain: "local", opset_import: ["" : 17, "local" : 1]> twice <scale> (a) => (b) '
        "{ c = local.once<scale: float = @scale>(a) b = Add(c, a) }"
        '<domain: "local", opset_import: ["" : 17]> once <scale> (a) => (b) '
        "{ s = Constant<value_float: float = @scale>() b = Mul(a, s) }"
    )
    held = canonicalise(Model.from_proto(proto))
    assert not held.functions
    assert ops(held) == {"Mul": 2, "Add": 2}
    x = normal(3, 4)
    np.testing.assert_allclose(run(held.to_proto(), {"x": x})[0], 12 * x, rtol=1e-5)


def test_gelu_inside_a_function() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "pkg" : 1]>'
        "g (float[B,4] x) => (float[B,4] y) { y = pkg.gelu(x) }"
        '<domain: "pkg", opset_import: ["" : 18]> gelu (x) => (y) { r = Constant<value_float=1.4142135>() '
        "one = Constant<value_float=1.0>() "
        "half = Constant<value_float=0.5>() d = Div(x, r) e = Erf(d) s = Add(e, one) m = Mul(x, s) y = Mul(m, half) }"
    )
    assert ops(canonicalise(Model.from_proto(proto))) == {"Gelu": 1}


BRANCHES = (
    "g (float[B,4] x, bool c) => (float[B,4] y)"
    "{ p = MatMul(x, w) i = Identity(p) y = If (c) <then_branch = a () => (float[B,4] t) { t = Add(i, b) }, "
    "else_branch = e () => (float[B,4] u) { v = Identity(i) u = Mul(v, v) }> }"
)


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("choice", [True, False])
def test_branches_that_read_outer_tensors(choice: bool, opset: int) -> None:
    proto = model(BRANCHES, opset=opset, w=normal(4, 4), b=normal(4))
    preserved(proto, {"x": normal(2, 4), "c": np.array(choice)})


def test_branch_that_reads_a_large_weight() -> None:
    text = BRANCHES.replace("[B,4]", "[B,96]")
    proto = model(text, opset=17, w=normal(96, 96), b=normal(96))
    preserved(proto, {"x": normal(2, 96), "c": np.array(True)})


def test_constant_read_inside_and_outside() -> None:
    proto = model(
        "g (float[B,4] x, bool c) => (float[B,4] y) { k = Constant<value_floats=[1.0,2.0,3.0,4.0]>() j = Mul(k, k) p "
        "= Add(x, j) "
        "y = If (c) <then_branch = a () => (float[B,4] t) { t = Add(p, j) }, else_branch = e () => (float[B,4] u) { "
        "u = Mul(p, k) }> }",
        opset=21,
    )
    preserved(proto, {"x": normal(2, 4), "c": np.array(True)})


def test_loop() -> None:
    proto = model(
        "g (float[4] x) => (float[4] y) { n = Constant<value_int=3>() t = Constant<value = bool {1}>() "
        "y = Loop (n, t, x) <body = l (int64 i, bool go, float[4] a) => (bool on, float[4] b) { on = Identity(go) b "
        "= Add(a, x) }> }",
        opset=17,
    )
    preserved(proto, {"x": normal(4)})


def test_ops_of_other_domains_pass_through() -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
        "g (float[4,4] x) => (float[4,4] y) { a = com.microsoft.Inverse(x) b = Reshape(a, s) y = "
        "Identity(b) }"
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 4]), "s"))
    held = canonicalise(Model.from_proto(proto))
    assert ops(held)["Inverse"] == 1
    done = held.to_proto()
    assert {o.domain for o in done.opset_import} == {"", "com.microsoft"}
    x = normal(4, 4)
    np.testing.assert_allclose(run(done, {"x": x})[0], run(proto, {"x": x})[0], rtol=1e-4)


def test_random_ops_are_not_folded() -> None:
    proto = model("g (float[3] x) => (float[3] y) { r = RandomNormal<shape=[3]>() y = Add(x, r) }")
    assert ops(canonicalise(Model.from_proto(proto)))["RandomNormal"] == 1


@pytest.mark.parametrize("inputs", ["x", "same"])
def test_outputs_that_are_inputs_or_constants(inputs: str) -> None:
    if inputs == "x":
        proto = model("g (float[3] x) => (float[3] y, float[3] z) { y = Identity(x) z = Identity(y) }")
    else:
        proto = model("g (float[3] x) => (float[3] y, float[3] z) { y = Add(c, c) z = Relu(x) }", c=normal(3))
    preserved(proto, {"x": normal(3)})


def test_dropout_and_casts_that_do_nothing() -> None:
    proto = model(
        "g (float[B,4] x) => (float[B,4] y) { a = Dropout(x) "
        "b = Cast<to=1>(a) c = Transpose<perm=[0,1]>(b) d = Concat<axis=0>(c) y = Relu(d) }"
    )
    assert ops(preserved(proto, {"x": normal(2, 4)})) == {"Relu": 1}


def test_dropout_whose_mask_is_read_stays() -> None:
    proto = model("g (float[B,4] x) => (float[B,4] y, bool[B,4] m) { y, m = Dropout(x) }")
    assert ops(preserved(proto, {"x": normal(2, 4)})) == {"Dropout": 1}


def test_table_gathers_are_not_made_into_large_constants() -> None:
    index = np.arange(64 * 64).reshape(64, 64) % 120
    proto = model(
        "g (float[B,64,64,16] x) => (float[B,64,64,16] y) { t = Gather(table, i) y = Add(x, t) }",
        table=normal(120, 16),
        i=index,
    )
    held = preserved(proto, {"x": normal(1, 64, 64, 16)})
    assert ops(held)["Gather"] == 1
    small = model(
        "g (float[B,4] x) => (float[B,4] y) { t = Gather(table, i) y = Add(x, t) }", table=normal(12, 4), i=np.array(3)
    )
    assert ops(preserved(small, {"x": normal(2, 4)})) == {"Add": 1}


def test_interpolated_tables_are_left_to_the_runtime() -> None:
    proto = model(
        'g (float[B,2,8,8] x) => (float[B,2,8,8] y) { t = Resize<mode="linear">(table, , s) y = Add(x, t) }',
        table=normal(1, 2, 4, 4),
        s=np.array([1, 1, 2, 2], dtype=np.float32),
    )
    assert ops(preserved(proto, {"x": normal(2, 2, 8, 8)})) == {"Resize": 1, "Add": 1}


def test_negative_steps_and_reversals_survive() -> None:
    proto = model(
        "g (float[4] x) => (float[4] y) { r = Slice(x, a, b, c, d) y = Relu(r) }",
        a=np.array([-1]),
        b=np.array([-99]),
        c=np.array([0]),
        d=np.array([-1]),
    )
    assert ops(preserved(proto, {"x": normal(4)})) == {"Slice": 1, "Relu": 1}


def test_reshape_to_an_empty_tensor() -> None:
    proto = model("g (float[B,0,4] x) => (float[B,0] y) { y = Reshape<allowzero=1>(x, s) }", s=np.array([2, 0]))
    preserved(proto, {"x": normal(2, 0, 4)})


def test_dynamic_reshape_keeps_every_batch() -> None:
    proto = model(
        "g (float[B,T,12] x) => (float[B,T,3,4] y) { s = Shape(x) b = Gather<axis=0>(s, i0) t = Gather<axis=0>(s, i1) "
        "b1 = Unsqueeze(b, a) t1 = Unsqueeze(t, a) k = Concat<axis=0>(b1, t1, tail) r = Reshape(x, k) y = Relu(r) }",
        i0=np.array(0),
        i1=np.array(1),
        a=np.array([0]),
        tail=np.array([3, 4]),
    )
    held = preserved(proto, {"x": normal(2, 5, 12)})
    assert ops(held) == {"Reshape": 1, "Relu": 1}
    for shape in ((1, 1), (3, 7), (4, 2)):
        same(proto, held, {"x": normal(*shape, 12)})
