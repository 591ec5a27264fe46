"""Gemm with any attributes, and bias on either side, become MatMul and Add."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graph.build import model, normal, ops, preserved


@given(
    trans_a=st.booleans(),
    trans_b=st.booleans(),
    alpha=st.sampled_from([1.0, 0.5, -2.0]),
    beta=st.sampled_from([1.0, 0.25]),
    bias=st.sampled_from([None, (4,), (1, 4), (1,), (), (3, 4), (3, 1)]),
)
def test_gemm(trans_a: bool, trans_b: bool, alpha: float, beta: float, bias: tuple[int, ...] | None) -> None:
    shape = "6,3" if trans_a else "3,6"
    weight = normal(4, 6) if trans_b else normal(6, 4)
    constants = {"w": weight} | ({} if bias is None else {"c": np.asarray(normal(*bias, seed=1))})
    attributes = f"transA={int(trans_a)}, transB={int(trans_b)}, alpha={alpha}, beta={beta}"
    proto = model(
        f"g (float[{shape}] x) => (float[3,4] y) {{ y = Gemm<{attributes}>(x, w{'' if bias is None else ', c'}) }}",
        **constants,
    )
    held = preserved(proto, {"x": normal(6, 3, seed=2) if trans_a else normal(3, 6, seed=2)})
    assert ops(held) == {"MatMul": 1} | ({"Add": 1} if bias is not None else {}) | ({"Transpose": 1} if trans_a else {})


def test_gemm_with_a_computed_bias() -> None:
    proto = model("g (float[3,6] x, float[3,4] c) => (float[3,4] y) { y = Gemm<beta=0.5>(x, w, c) }", w=normal(6, 4))
    assert ops(preserved(proto, {"x": normal(3, 6), "c": normal(3, 4)})) == {"MatMul": 1, "Mul": 1, "Add": 1}


def test_gemm_of_two_activations_stays() -> None:
    proto = model("g (float[3,6] x, float[6,4] z) => (float[3,4] y) { y = Gemm(x, z) }")
    assert ops(preserved(proto, {"x": normal(3, 6), "z": normal(6, 4)})) == {"Gemm": 1}


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1, 1, 4)])
def test_bias_goes_right_and_flat(shape: tuple[int, ...]) -> None:
    proto = model(
        "g (float[B,3,6] x) => (float[B,3,4] y) { p = MatMul(x, w) y = Add(b, p) }",
        w=normal(6, 4),
        b=normal(*shape, seed=1),
    )
    held = preserved(proto, {"x": normal(2, 3, 6)})
    add = next(n for n in held.graph.nodes if n.op == "Add")
    assert add.inputs[0].inputs[0].op == "MatMul"
    assert add.inputs[1].shape == (4,)


def test_position_table_is_no_bias() -> None:
    proto = model(
        "g (float[B,3,6] x) => (float[B,3,4] y) { p = MatMul(x, w) y = Add(b, p) }",
        w=normal(6, 4),
        b=normal(3, 4, seed=1),
    )
    held = preserved(proto, {"x": normal(2, 3, 6)})
    assert next(n for n in held.graph.nodes if n.op == "Add").inputs[0].shape == (3, 4)


def test_equal_biases_get_owners() -> None:
    proto = model(
        "g (float[3,4] x) => (float[3,4] y) { p = MatMul(x, w) q = Add(p, b) r = MatMul(q, w) y = Add(r, b) }",
        w=normal(4, 4),
        b=normal(4),
    )
    held = preserved(proto, {"x": normal(3, 4)})
    assert all(len(c.outputs) == 1 for c in held.constants())
    assert len(list(held.constants())) == 4
