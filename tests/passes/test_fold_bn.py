"""fold-bn: exact after convolutions and linears, and left out elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.structure import Conv
from tests.passes.graphs import Builder, apply, run


def batch_norm(b: Builder, x: str, channels: int, out: str = "", **attrs: object) -> str:
    constants = [b.floats(channels), b.floats(channels), b.floats(channels), np.abs(b.floats(channels))]
    y = b.node("BatchNormalization", x, *[b.const(c) for c in constants], out=out, **attrs)
    b.batch_norms.append(b.nodes[-1].name)
    return y


def conv(
    b: Builder, x: str, weight: np.ndarray | str, bias: np.ndarray | None, op: str = "Conv", **attrs: object
) -> str:
    w = weight if isinstance(weight, str) else b.const(weight)
    inputs = [x, w] + ([b.const(bias)] if bias is not None else [])
    y = b.node(op, *inputs, **attrs)
    node = b.nodes[-1]
    b.convs[node.name] = Conv(
        node.name, x, w, inputs[2] if len(inputs) > 2 else None, y, transpose=op == "ConvTranspose"
    )
    return y


def left(model, op="BatchNormalization"):
    return [n.name for n in model.graph.nodes if n.op == op]


@given(
    op=st.sampled_from(["Conv", "ConvTranspose"]),
    group=st.sampled_from([1, 2]),
    bias=st.booleans(),
    output=st.booleans(),
    seed=st.integers(0, 99),
)
def test_behind_convolutions(op: str, group: int, bias: bool, output: bool, seed: int) -> None:
    b = Builder(seed)
    inputs, outputs = 4, 6
    shape = (outputs, inputs // group, 3, 3) if op == "Conv" else (inputs, outputs // group, 3, 3)
    y = conv(b, "x", b.floats(*shape), b.floats(outputs) if bias else None, op, group=group, pads=[1, 1, 1, 1])
    y = batch_norm(b, y, outputs, out="y" if output else "")
    if not output:
        b.node("Relu", y, out="y")
    model, structure = b.build({"x": [1, inputs, 5, 5]}, ["y"])
    passed = apply(model, structure, [{"x": b.floats(1, inputs, 5, 5)}], "fold-bn")
    assert [c.done for c in passed.changes] == [True]
    assert left(model) == []
    assert passed.drift["y"] > 110


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("way", ["direct", "reshape", "transpose"])
def test_behind_linears(way: str, bias: bool) -> None:
    b = Builder(1)
    x = [6, 4] if way == "direct" else [2, 3, 4]
    y = b.linear("x", b.floats(4, 5), b.floats(5) if bias else None)
    if way == "reshape":
        y = b.node("Reshape", y, b.ints(-1, 5))
    elif way == "transpose":
        y = b.node("Transpose", y, perm=[0, 2, 1])
    b.node("Relu", batch_norm(b, y, 5), out="y")
    model, structure = b.build({"x": x}, ["y"])
    passed = apply(model, structure, [{"x": b.floats(*x)}], "fold-bn")
    assert [c.done for c in passed.changes] == [True]
    assert left(model) == []
    assert passed.drift["y"] > 110


def test_shared_weight_is_cloned() -> None:
    b = Builder(2)
    w = b.const(b.floats(4, 4, 1, 1), "shared")
    y = batch_norm(b, conv(b, "x", w, None), 4)
    b.node("Add", y, conv(b, "x", w, None), out="y")
    model, structure = b.build({"x": [1, 4, 3, 3]}, ["y"])
    kept = np.array(model.tensor("shared").values)
    assert apply(model, structure, [{"x": b.floats(1, 4, 3, 3)}], "fold-bn").drift["y"] > 110
    assert np.array_equal(model.tensor("shared").values, kept)


def test_another_reader_is_a_reason() -> None:
    b = Builder(3)
    y = conv(b, "x", b.floats(4, 4, 1, 1), None)
    b.node("Add", batch_norm(b, y, 4), y, out="y")
    model, structure = b.build({"x": [1, 4, 3, 3]}, ["y"])
    before = run(model, [{"x": np.ones((1, 4, 3, 3), np.float32)}])
    passed = apply(model, structure, [{"x": np.ones((1, 4, 3, 3), np.float32)}], "fold-bn")
    assert [(c.done, "another reader" in c.what) for c in passed.changes] == [(False, True)]
    assert passed.drift == {}
    assert np.array_equal(run(model, [{"x": np.ones((1, 4, 3, 3), np.float32)}])[0]["y"], before[0]["y"])


def test_a_reader_of_the_shape_is_none() -> None:
    b = Builder(3)
    y = conv(b, "x", b.floats(4, 4, 1, 1), None)
    shape = b.node("Shape", y)
    b.node("Expand", batch_norm(b, y, 4), shape, out="y")
    model, structure = b.build({"x": [1, 4, 3, 3]}, ["y"])
    assert apply(model, structure, [{"x": b.floats(1, 4, 3, 3)}], "fold-bn").drift["y"] > 110


def test_token_axis_is_a_reason() -> None:
    b = Builder(4)
    batch_norm(b, b.linear("x", b.floats(4, 5)), 3, out="y")
    model, structure = b.build({"x": [2, 3, 4]}, ["y"])
    passed = apply(model, structure, [{"x": b.floats(2, 3, 4)}], "fold-bn")
    assert [(c.done, c.what) for c in passed.changes] == [(False, "left alone: its channels are not the linear's")]
    assert left(model)


def test_input_of_the_model_is_a_reason() -> None:
    b = Builder(5)
    batch_norm(b, "x", 3, out="y")
    model, structure = b.build({"x": [2, 3, 4]}, ["y"])
    passed = apply(model, structure, [{"x": b.floats(2, 3, 4)}], "fold-bn")
    assert [(c.done, "input of the model" in c.what) for c in passed.changes] == [(False, True)]
