"""Shapes keep their symbols through shape arithmetic, and values are followed while they are certain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.graph.dataflow.dims import Dim
from onnxptq.graph.dataflow.shapes import analyse, infer
from onnxptq.graph.model import Model
from tests.graph.build import concrete, model, normal, run

HEAD = "g (float[N,6,T] x) => (float[A,B,C] y) { s = Shape(x) "
VALUES = {"i0": 0, "i2": 2, "v0": [0], "v1": [1], "v2": [2], "v3": [3], "m1": [-1], "two": 2}
INTS = {name: np.array(value) for name, value in VALUES.items()}
CASES: dict[str, tuple[str, tuple[Dim, ...]]] = {
    "kept": ("k = Identity(s) y = Reshape(x, k) }", ("N", 6, "T")),
    "merged": ("n = Gather(s, v0) k = Concat<axis=0>(n, m1, v2) y = Reshape(x, k) }", ("N", "3*T", 2)),
    "multiplied": (
        "n = Gather(s, i0) t = Mul(n, two) u = Unsqueeze(t, v0) k = Concat<axis=0>(u, v3, m1) y = Reshape(x, k) }",
        ("2*N", 3, "T"),
    ),
    "divided again": (
        "n = Gather(s, i0) t = Mul(n, two) d = Div(t, two) u = Unsqueeze(d, v0) k = Concat<axis=0>(u, v2, m1) y = "
        "Reshape(x, k) }",
        ("N", 2, "3*T"),
    ),
    "sliced": ("k = Slice(s, m1, v3) w = Concat<axis=0>(v1, m1, k) y = Reshape(x, w) }", (1, "6*N", "T")),
    "cast through": ("c = Cast<to=6>(s) d = Cast<to=7>(c) y = Reshape(x, d) }", ("N", 6, "T")),
    "expanded": (
        "n = Gather(s, v0) k = Concat<axis=0>(n, v2, v3) o = ConstantOfShape(v1) y = Expand(o, k) }",
        ("N", 2, 3),
    ),
    "tiled": ("n = Gather(s, v0) k = Concat<axis=0>(v1, n, v2) y = Tile(x, k) }", ("N", "6*N", "2*T")),
    "concatenated": ("y = Concat<axis=2>(x, x) }", ("N", 6, "2*T")),
    "filled": ("y = ConstantOfShape(s) }", ("N", 6, "T")),
    "minus one kept": (
        "o = ConstantOfShape<value = int64[1] {1}>(v3) m = Mul(o, m1) e = Equal(s, m) k = Where(e, o, s) y = "
        "Reshape(x, k) }",
        ("N", 6, "T"),
    ),
}


@pytest.mark.parametrize(("nodes", "wanted"), CASES.values(), ids=CASES)
def test_symbols(nodes: str, wanted: tuple[Dim, ...]) -> None:
    used = {
        k: v
        for k, v in INTS.items()
        if f" {k})" in nodes or f" {k}," in nodes or f"({k}," in nodes or f"({k})" in nodes
    }
    proto = model(HEAD + nodes, **used)
    held = Model.from_proto(proto)
    held.graph.toposort()
    facts = analyse(held)
    assert facts.shapes["y"] == wanted
    x = normal(2, 6, 5)
    sizes = {"N": 2, "T": 5}
    assert run(proto, {"x": x})[0].shape == tuple(concrete(d, sizes) for d in wanted)
    fixed = analyse(held, inputs={"x": [2, 6, 5]})
    assert fixed.shapes["y"] == tuple(concrete(d, sizes) for d in wanted)


@given(st.integers(-7, 7), st.integers(-9, 9), st.sampled_from([1, 2, -1, -2]))
def test_slices_of_known_shapes(start: int, end: int, step: int) -> None:
    proto = model(
        "g (float[N,2,3,4,5] x) => (int64[K] y) { s = Shape(x) y = Slice(s, a, b, c, d) }",
        a=np.array([start]),
        b=np.array([end]),
        c=np.array([0]),
        d=np.array([step]),
    )
    facts = analyse(Model.from_proto(proto))
    wanted = run(proto, {"x": normal(7, 2, 3, 4, 5)})[0]
    found = [7 if v == "N" else v for v in facts.values["y"].tolist()]
    assert found == wanted.tolist()


@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=4),
    st.integers(-5, 5).filter(bool),
    st.sampled_from(["Add", "Sub", "Mul", "Div", "Mod"]),
)
def test_integer_arithmetic_is_that_of_the_runtime(values: list[int], other: int, op: str) -> None:
    proto = model(f"g (int64[K] x) => (int64[K] y) {{ y = {op}(a, b) }}", a=np.array(values), b=np.array([other]))
    facts = analyse(Model.from_proto(proto))
    np.testing.assert_array_equal(facts.values["y"], run(proto, {"x": np.array([1])})[0])


def test_values_of_the_inputs_are_not_known() -> None:
    proto = model("g (float[N,4] x, int64[2] t) => (float[A,B] y) { y = Reshape(x, t) }")
    facts = analyse(Model.from_proto(proto))
    assert "t" not in facts.values
    assert facts.shapes["y"] in (None, ("A", "B"))


def test_declared_shapes_fill_what_cannot_be_inferred() -> None:
    proto = model("g (float[N,4] x, int64[2] t) => (float[3,B] y) { z = Reshape(x, t) y = Relu(z) }")
    held = Model.from_proto(proto)
    infer(held)
    assert held.graph.outputs[0].shape == [3, "B"]


def test_ops_nobody_knows_leave_the_rest_alone() -> None:
    proto = model("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    proto.graph.node[0].domain = "elsewhere"
    proto.opset_import.add(domain="elsewhere", version=1)
    facts = analyse(Model.from_proto(proto))
    assert facts.shapes["y"] == ("N", 4)
