"""center-tokens: exact before an InstanceNormalization, left out elsewhere; coded values become far smaller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.graph.model import Model
from onnxptq.structure import Structure, discover
from tests.passes.graphs import Builder, apply, run


def graph(b: Builder, *, bias: bool = True, norm: str = "instance", again: bool = False) -> tuple[Model, Structure]:
    """x [2, 7, 3] -> linear -> transposed -> normalization -> y; ``again``: something else reads the linear's output
    too."""
    made = b.linear("x", b.floats(3, 4), b.floats(4) if bias else None)
    swapped = b.node("Transpose", made, perm=[0, 2, 1])
    if norm == "instance":
        y = b.node("InstanceNormalization", swapped, b.const(b.floats(4)), b.const(b.floats(4)))
    else:
        y = b.node("LayerNormalization", swapped, b.const(b.floats(7)), axis=-1)
    b.node("Sum", y, *([swapped] if again else []), out="y")
    model, _ = b.build({"x": [2, 7, 3]}, ["y"])
    return model, discover(model)


@given(bias=st.booleans(), seed=st.integers(0, 99))
def test_outputs_stay_and_the_mean_is_gone(bias: bool, seed: int) -> None:
    b = Builder(seed)
    model, structure = graph(b, bias=bias)
    feeds = [{"x": b.floats(2, 7, 3) + 10 * b.floats(2, 1, 3)}]
    passed = apply(model, structure, feeds, "center-tokens")
    assert [change.done for change in passed.changes] == [True]
    assert passed.drift["y"] > 90
    (linear,) = discover(model).linears.values()
    read = run(model, feeds, [linear.input])[0][linear.input]
    assert np.allclose(read, feeds[0]["x"] - feeds[0]["x"].mean(axis=1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"again": True}])
def test_others_are_left_alone(options: dict[str, Any]) -> None:
    b = Builder(0)
    model, structure = graph(b, **options)
    count = len(model.graph.nodes)
    passed = apply(model, structure, [{"x": b.floats(2, 7, 3)}], "center-tokens")
    assert passed.changes == ()
    assert len(model.graph.nodes) == count


def test_two_linears_of_one_input() -> None:
    b = Builder(0)
    ends = []
    for _ in range(2):
        swapped = b.node("Transpose", b.linear("x", b.floats(3, 4)), perm=[0, 2, 1])
        ends.append(b.node("InstanceNormalization", swapped, b.const(b.floats(4)), b.const(b.floats(4))))
    b.node("Sum", *ends, b.node("Transpose", b.linear("x", b.floats(3, 4)), perm=[0, 2, 1]), out="y")
    model, _ = b.build({"x": [2, 7, 3]}, ["y"])
    passed = apply(model, discover(model), [{"x": b.floats(2, 7, 3)}], "center-tokens")
    assert [change.done for change in passed.changes] == [True, True]
    assert passed.drift["y"] > 100
