"""Reasons that keep a product in float, and products in bodies of If and Loop."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.model import Model
from onnxptq.structure import Structure, discover
from tests.graph.build import model, normal

SCORES = "product of queries and keys with scale and bias"
GIVEN = "g (float[1,2,4,8] q, float[1,2,8,6] k, float[1,2,6,8] v) => (float[N,M,H,8] y) { s = MatMul(q, k) "


def structure(text: str, **constants: np.ndarray) -> tuple[Model, Structure]:
    held = canonicalise(Model.from_proto(model(text, **constants)))
    return held, discover(held)


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        ("y = MatMul(s, v) }", ["a product of two activations without softmax"] * 2),
        (
            "m = ReduceMax<axes=[-1]>(s) d = Sub(s, m) p = Softmax(d) y = MatMul(p, v) }",
            [f"no attention: its scores are no {SCORES} (Softmax <- Sub <- MatMul)"] * 2,
        ),
        ("p = Softmax<axis=2>(s) y = MatMul(p, v) }", ["no attention: its softmax is not over the last axis"] * 2),
        (
            "p = Softmax(s) y1 = MatMul(p, v) y2 = MatMul(p, v2) y = Add(y1, y2) }",
            ["no attention: 2 products with values read its softmax, but MatMul"] * 3,
        ),
    ],
)
def test_why_a_product_belongs_to_no_attention(nodes: str, why: list[str]) -> None:
    text = (GIVEN + nodes).replace("v) =>", "v, float[1,2,6,8] v2) =>")
    assert list(structure(text)[1].left.values()) == why


def test_a_weight_on_the_left_is_said() -> None:
    _, found = structure("g (float[1,6,8] x) => (float[1,4,8] y) { y = MatMul(w, x) }", w=normal(4, 6))
    assert list(found.left.values()) == ["its constant operand is no matrix on the right"]


def test_bodies_are_counted() -> None:
    text = (
        "g (float[1,4] x, bool c) => (float[1,4] y) { h = MatMul(x, w) "
        "y = If(c) <then_branch = a () => (float[1,4] y1) { y1 = MatMul(h, w) }, "
        "else_branch = b () => (float[1,4] y2) { z = MatMul(h, w) y2 = MatMul(z, w) }> }"
    )
    _, found = structure(text, w=normal(4, 4))
    assert found.hidden == {"If": 3}
