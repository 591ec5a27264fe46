"""pointwise: exact for every convolution of kernel 1 over tokens, and nothing else is touched."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.graph.model import Model
from onnxptq.structure import Structure, discover
from tests.passes.graphs import Builder, apply


def graph(b: Builder, *, swapped: bool, bias: bool, kernel: int = 1, **attrs: Any) -> tuple[Model, Structure]:
    """[2, 7, 3] as tokens by channels, transposed, or as channels by tokens -> two convolutions -> y; what is between
    is read twice."""
    x = b.node("Transpose", "x", perm=[0, 2, 1]) if swapped else "x"
    group = attrs.get("group", 1)
    for _ in range(2):
        inputs = [x, b.const(b.floats(3, 3 // group, kernel)), *([b.const(b.floats(3))] if bias else [])]
        x = b.node("Conv", *inputs, **attrs)
    b.node("Sum", x, b.node("Relu", x), out="y")
    model, _ = b.build({"x": [2, 7, 3] if swapped else [2, 3, 7]}, ["y"])
    return model, discover(model)


def ops(model: Model) -> Counter[str]:
    return Counter(node.op for node in model.graph.nodes)


@given(swapped=st.booleans(), bias=st.booleans(), seed=st.integers(0, 99))
def test_outputs_stay(swapped: bool, bias: bool, seed: int) -> None:
    b = Builder(seed)
    model, structure = graph(b, swapped=swapped, bias=bias)
    passed = apply(model, structure, [{"x": b.floats(2, 7, 3) if swapped else b.floats(2, 3, 7)}], "pointwise")
    assert [change.done for change in passed.changes] == [True, True]
    assert passed.drift["y"] > 110
    # The first one's transposition in front is undone by the one that was there, the second one's by the first one's
    # behind.
    assert ops(model) == Counter(MatMul=2, Transpose=1 if swapped else 2, Relu=1, Sum=1, **({"Add": 2} if bias else {}))
    found = discover(model)
    assert not found.convs
    assert [(one.inputs, one.outputs, one.bias is not None) for one in found.linears.values()] == [(3, 3, bias)] * 2
    assert set(found.linears) == set(structure.convs)


@pytest.mark.parametrize(
    "attrs", [{"kernel": 2}, {"strides": [2]}, {"pads": [0, 1]}, {"group": 3}, {"auto_pad": "VALID"}]
)
def test_others_are_left_alone(attrs: dict[str, Any]) -> None:
    b = Builder(0)
    model, structure = graph(b, swapped=True, bias=True, **attrs)
    passed = apply(model, structure, [{"x": b.floats(2, 7, 3)}], "pointwise")
    assert [change.done for change in passed.changes] == [False, False]
    assert ops(model)["Conv"] == 2


def test_a_transposition_that_others_read_stays() -> None:
    b = Builder(0)
    x = b.node("Transpose", "x", perm=[0, 2, 1])
    b.node("Sum", b.node("Conv", x, b.const(b.floats(3, 3, 1))), x, out="y")
    model, _ = b.build({"x": [2, 7, 3]}, ["y"])
    passed = apply(model, discover(model), [{"x": b.floats(2, 7, 3)}], "pointwise")
    assert passed.drift["y"] > 110
    assert ops(model) == Counter(Transpose=2, MatMul=1, Sum=1)


def test_images_are_not_tokens() -> None:
    b = Builder(0)
    b.node("Conv", "x", b.const(b.floats(3, 3, 1, 1)), out="y")
    model, _ = b.build({"x": [1, 3, 4, 4]}, ["y"])
    passed = apply(model, discover(model), [{"x": np.ones((1, 3, 4, 4), np.float32)}], "pointwise")
    assert passed.changes == ()
    assert ops(model) == Counter(Conv=1)


def test_a_bias_that_is_computed() -> None:
    b = Builder(0)
    b.node("Conv", "x", b.const(b.floats(3, 3, 1)), b.node("Abs", "bias"), out="y")
    model, _ = b.build({"x": [1, 3, 4], "bias": [3]}, ["y"])
    feeds = [{"x": b.floats(1, 3, 4), "bias": b.floats(3)}]
    passed = apply(model, discover(model), feeds, "pointwise")
    assert [(change.done, change.what) for change in passed.changes] == [
        (False, "left alone: its bias is not constant")
    ]
