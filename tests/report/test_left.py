"""The report names what stays in float, its share, and how to include it."""

from __future__ import annotations

from onnxptq.bits import Bits
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.model import Model
from onnxptq.recipe import Recipe
from onnxptq.report.left import hidden, is_static, left_in_float, left_table, share_warning
from onnxptq.structure import Structure, discover
from tests.graph.build import model, normal


def test_layers_in_bodies_are_said() -> None:
    assert hidden(Structure()) == []
    assert hidden(Structure(matmuls=("a",), hidden={"If": 3})) == [
        "3 of 4 layers and products lie in bodies of If and stay in float; export the model without If to quantize them"
    ]


def test_a_large_share_in_float_is_said() -> None:
    text = "g (float[1,4,8] x) => (float[1,4,64] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
    held = canonicalise(Model.from_proto(model(text, w1=normal(8, 8), w2=normal(8, 64))))
    found = discover(held)
    assert is_static(held, found)
    recipe = Recipe.load("minmax")
    plan, _ = recipe.plan(found, Bits(8, 8))
    left = left_in_float(held, found, plan, {})
    last = list(found.linears)[-1]
    assert [(one.reason, one.nodes, one.share) for one in left] == [("output layer", (last,), 8 / 9)]
    assert left_table(left).splitlines()[1].split() == ["88.9%", "1", "output", "layer", last]
    (line,) = share_warning(left)
    assert line.startswith(f"89% of the multiplications stay in float: 88.9% output layer ({last});")
    plan, _ = recipe.plan(found, Bits(8, 8), include=[last])
    assert left_in_float(held, found, plan, {}) == share_warning([]) == []


def test_what_the_guard_took_is_said() -> None:
    text = "g (float[1,4,8] x) => (float[1,4,8] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
    held = canonicalise(Model.from_proto(model(text, w1=normal(8, 8), w2=normal(8, 8))))
    found = discover(held)
    first, last = found.linears
    before, _ = Recipe.load("minmax").plan(found, Bits(8, 8), include=[last])
    left = left_in_float(held, found, before.without([f"{first}:linear_input"]), {}, before=before)
    assert [(one.reason, one.nodes, one.share) for one in left] == [("relieved by the guard", (first,), 0.5)]
    assert share_warning(left)[0].endswith("; --set guard=off switches the guard off")
