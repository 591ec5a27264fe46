"""LayerNorm written out becomes one node; norms over other axes stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.graph.build import model, normal, ops, preserved

FEEDS = {"x": 2 * normal(2, 5, 8) + 1}
BASE = "m = ReduceMean<axes=[-1]>(x) c = Sub(x, m) "
CHAINS = {
    "pow": BASE
    + "s = Pow(c, two) v = ReduceMean<axes=[-1]>(s) e = Add(v, eps) r = Sqrt(e) n = Div(c, r) k = Mul(n, w) y = "
    "Add(k, b)",
    "square": BASE
    + "s = Mul(c, c) v = ReduceMean<axes=[2]>(s) e = Add(eps, v) r = Sqrt(e) n = Div(c, r) k = Mul(w, n) y = Add(b, k)",
    "reciprocal": BASE
    + "s = Mul(c, c) v = ReduceMean<axes=[-1]>(s) e = Add(v, eps) r = Sqrt(e) i = Reciprocal(r) n = Mul(c, i) k = "
    "Mul(n, w) y = Add(k, b)",
    "root by power": BASE
    + "s = Pow(c, two) v = ReduceMean<axes=[-1]>(s) e = Add(v, eps) r = Pow(e, half) n = Div(c, r) k = Mul(n, w) y = "
    "Add(k, b)",
    "difference twice": BASE
    + "c2 = Sub(x, m) s = Pow(c2, two) v = ReduceMean<axes=[-1]>(s) e = Add(v, eps) r = Sqrt(e) n = Div(c, r) k = "
    "Mul(n, w) y = Add(k, b)",
}


def written(nodes: str) -> onnx.ModelProto:
    numbers = {
        "two": np.float32(2),
        "half": np.float32(0.5),
        "eps": np.float32(1e-5),
        "w": normal(8, seed=1),
        "b": normal(8, seed=2),
    }
    used = {k: v for k, v in numbers.items() if f"{k})" in nodes or f"({k}," in nodes}
    return model(f"g (float[B,5,8] x) => (float[B,5,8] y) {{ {nodes} }}", opset=13, **used)  # type: ignore[arg-type]


@pytest.mark.parametrize("nodes", CHAINS.values(), ids=CHAINS)
def test_spellings(nodes: str) -> None:
    held = preserved(written(nodes), FEEDS)
    assert ops(held) == {"LayerNormalization": 1}
    assert held.graph.nodes[0].attrs["epsilon"] == pytest.approx(1e-5)
    assert len(held.graph.nodes[0].inputs) == 3


def test_without_affine_part() -> None:
    nodes = CHAINS["pow"].replace("n = Div(c, r) k = Mul(n, w) y = Add(k, b)", "y = Div(c, r)")
    held = preserved(written(nodes), FEEDS)
    assert ops(held) == {"LayerNormalization": 1}


def test_scale_without_bias() -> None:
    nodes = CHAINS["pow"].replace("k = Mul(n, w) y = Add(k, b)", "y = Mul(n, w)")
    assert ops(preserved(written(nodes), FEEDS)) == {"LayerNormalization": 1}


def test_factor_of_another_shape_is_left_behind() -> None:
    nodes = CHAINS["pow"].replace("k = Mul(n, w) y = Add(k, b)", "y = Mul(n, two)")
    assert ops(preserved(written(nodes), FEEDS)) == {"LayerNormalization": 1, "Mul": 1}


@pytest.mark.parametrize("axes", ["[1]", "[1, 2]"])
def test_other_axes_stay(axes: str) -> None:
    nodes = CHAINS["pow"].replace("[-1]", axes)
    assert ops(preserved(written(nodes), FEEDS))["LayerNormalization"] == 0


def test_variance_of_something_else_stays() -> None:
    nodes = CHAINS["pow"].replace("s = Pow(c, two)", "s = Pow(x, two)")
    assert ops(preserved(written(nodes), FEEDS))["LayerNormalization"] == 0
