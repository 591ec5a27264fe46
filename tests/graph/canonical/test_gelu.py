"""Every spelling of GELU becomes one node; similar chains stay."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.graph.build import model, normal, ops, preserved

ROOT, CUBE, PI = math.sqrt(2), 0.044715, math.sqrt(2 / math.pi)
FEEDS = {"x": 3 * normal(4, 8)}

ERF = {
    "torchscript": "d = Div(x, r) e = Erf(d) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
    "half first": "d = Div(x, r) e = Erf(d) p = Add(one, e) h = Mul(half, x) y = Mul(p, h)",
    "half on the sum": "d = Mul(q, x) e = Erf(d) p = Add(e, one) h = Mul(p, half) y = Mul(x, h)",
    "halved by division": "d = Div(x, r) e = Erf(d) p = Add(e, one) h = Div(x, two) y = Mul(h, p)",
}
TANH = {
    "pow": "c = Pow(x, three) k = Mul(c, cube) s = Add(x, k) a = Mul(s, pi) t = Tanh(a) p = Add(t, one) h = Mul(x, "
    "half) y = Mul(h, p)",
    "products": "s2 = Mul(x, x) s3 = Mul(s2, x) k = Mul(cube, s3) s = Add(k, x) a = Mul(pi, s) t = Tanh(a) p = "
    "Add(one, t) "
    "h = Mul(half, p) y = Mul(x, h)",
    "factored": "s2 = Mul(x, x) k = Mul(s2, cube) s = Add(k, one) xs = Mul(x, s) a = Mul(xs, pi) t = Tanh(a) p = "
    "Add(t, one) "
    "h = Mul(x, half) y = Mul(h, p)",
    "fast": "k = Mul(x, cube) kx = Mul(k, x) s = Add(one, kx) xp = Mul(x, pi) a = Mul(xp, s) t = Tanh(a) p = "
    "Add(one, t) "
    "h = Mul(x, half) y = Mul(h, p)",
}
NUMBERS = {"r": ROOT, "q": 1 / ROOT, "one": 1, "half": 0.5, "two": 2, "three": 3, "cube": CUBE, "pi": PI}


def written(nodes: str, **changed: float) -> object:
    used = {
        k: np.float32(v)
        for k, v in (NUMBERS | changed).items()
        if f" {k})" in nodes or f"({k}," in nodes or f", {k})" in nodes
    }
    return model(f"g (float[4,8] x) => (float[4,8] y) {{ {nodes} }}", **used)  # type: ignore[arg-type]


@pytest.mark.parametrize("nodes", ERF.values(), ids=ERF)
def test_erf_spellings(nodes: str) -> None:
    held = preserved(written(nodes), FEEDS)  # type: ignore[arg-type]
    assert ops(held) == {"Gelu": 1}
    assert held.graph.nodes[0].attrs["approximate"] == "none"


@pytest.mark.parametrize("nodes", TANH.values(), ids=TANH)
def test_tanh_spellings(nodes: str) -> None:
    held = preserved(written(nodes), FEEDS)  # type: ignore[arg-type]
    assert ops(held) == {"Gelu": 1}
    assert held.graph.nodes[0].attrs["approximate"] == "tanh"


def test_argument_that_is_itself_a_product() -> None:
    proto = model(
        "g (float[4,8] a, float[4,8] b) => (float[4,8] y)"
        "{ x = Mul(a, b) d = Div(x, r) e = Erf(d) p = Add(e, one) m = Mul(x, p) y = Mul(m, half) }",
        r=np.float32(ROOT),
        one=np.float32(1),
        half=np.float32(0.5),
    )
    held = preserved(proto, {"a": normal(4, 8), "b": normal(4, 8, seed=1)})
    assert ops(held) == {"Mul": 1, "Gelu": 1}


def test_output_read_twice() -> None:
    nodes = ERF["torchscript"].replace("y = Mul(m, half)", "g = Mul(m, half) z = Relu(g) y = Add(g, z)")
    held = preserved(written(nodes), FEEDS)  # type: ignore[arg-type]
    assert ops(held) == {"Gelu": 1, "Relu": 1, "Add": 1}


@pytest.mark.parametrize(
    "changed",
    [{"r": 1.5}, {"one": 1.1}, {"half": 0.6}],
)
def test_other_numbers_are_no_gelu(changed: dict[str, float]) -> None:
    held = preserved(written(ERF["torchscript"], **changed), FEEDS)  # type: ignore[arg-type]
    assert ops(held)["Gelu"] == 0


def test_other_multiplicand_is_no_gelu() -> None:
    nodes = "d = Div(x, r) e = Erf(d) p = Add(e, one) z = Relu(x) m = Mul(z, p) y = Mul(m, half)"
    held = preserved(written(nodes), FEEDS)  # type: ignore[arg-type]
    assert ops(held)["Gelu"] == 0


def test_a_part_read_elsewhere_is_no_gelu() -> None:
    nodes = "d = Div(x, r) e = Erf(d) p = Add(e, one) m = Mul(x, p) g = Mul(m, half) y = Add(g, e)"
    held = preserved(written(nodes), FEEDS)  # type: ignore[arg-type]
    assert ops(held)["Gelu"] == 0
