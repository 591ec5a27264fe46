"""Readers of a LayerNormalization that smooth and ln-reparam accept; both are exact then."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.graph.model import Model
from onnxptq.passes.norms import Reading, readings
from onnxptq.structure import Structure, discover
from tests.passes.graphs import Builder, apply, run, window

PASSES = [("smooth", {}), ("ln-reparam", {}), ("ln-reparam", {"rule": "balanced"}), ("ln-reparam", {"padded": "scale"})]


def found(b: Builder, inputs: dict[str, list[int]], *outputs: str) -> tuple[Model, Structure]:
    """The model, and its structure as it is discovered."""
    model, _ = b.build(inputs, outputs or ["y"])
    return model, discover(model)


def first(model: Model, structure: Structure) -> Reading | str:
    """What is read of the first LayerNormalization."""
    return next(iter(readings(model, structure).values()))


def one(b: Builder, between: Callable[[Builder, str], str], **norm: object) -> tuple[Model, Structure]:
    """LayerNorm -> something -> linear -> y."""
    b.linear(between(b, b.norm("x", 8, **norm)), b.floats(8, 5), b.floats(5), out="y")
    return found(b, {"x": [2, 6, 8]})


def outlying(b: Builder) -> dict[str, np.ndarray]:
    scale = np.exp(b.rng.normal(size=8) * 1.5).astype(np.float32)
    return {"scale": scale, "bias": b.floats(8) * scale * 2}


ALONE = "not linears alone read it, channels in order"
WAYS: dict[str, Callable[[Builder, str], str]] = {
    "direct": lambda b, x: x,
    "reshape": lambda b, x: b.node("Reshape", x, b.ints(2, 2, 3, 8)),
    "roll": lambda b, x: b.node(
        "Concat", *[b.node("Slice", x, b.ints(i), b.ints(e), b.ints(1)) for i, e in ((2, 6), (0, 2))], axis=1
    ),
    "there and back": lambda b, x: b.node("Transpose", b.node("Transpose", x, perm=[0, 2, 1]), perm=[0, 2, 1]),
    "one token": lambda b, x: b.node("Gather", x, b.const(np.array(0)), axis=1),
    "pad": lambda b, x: b.node("Pad", x, b.ints(0, 0, 0, 0, 2, 0)),
    "pad channels first": lambda b, x: b.node(
        "Transpose", b.node("Pad", b.node("Transpose", x, perm=[0, 2, 1]), b.ints(0, 0, 0, 0, 0, 3)), perm=[0, 2, 1]
    ),
    "pad nothing": lambda b, x: b.node("Pad", x, b.ints(0, 0, 0, 0, 0, 0)),
    "pad by copies": lambda b, x: b.node("Pad", x, b.ints(0, 0, 0, 0, 2, 0), mode="edge"),
    "split": lambda b, x: b.node("Concat", *b.node("Split", x, outputs=2, axis=1, num_outputs=2), axis=1),
    "squeeze": lambda b, x: b.node("Squeeze", b.node("Unsqueeze", x, b.ints(1)), b.ints(1)),
}


@given(way=st.sampled_from(list(WAYS)), choice=st.sampled_from(PASSES), bias=st.booleans(), seed=st.integers(0, 99))
def test_outputs_stay(way: str, choice: tuple[str, dict[str, str]], bias: bool, seed: int) -> None:
    b = Builder(seed)
    scale = outlying(b)
    model, structure = one(b, WAYS[way], **(scale if bias else {"scale": scale["scale"], "bias": ""}))
    name, options = choice
    passed = apply(
        model, structure, [{"x": b.floats(2, 6, 8)} for _ in range(2)], name, **{name.replace("-", "_"): options}
    )
    assert [c.done for c in passed.changes] == [True]
    assert passed.drift["y"] > 100


def test_padding_is_seen() -> None:
    padded = {way: first(*one(Builder(0), between)).padded for way, between in WAYS.items()}
    assert [way for way, is_padded in padded.items() if is_padded] == ["pad", "pad channels first"]


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (lambda b, x: b.node("Relu", x), ALONE),
        (lambda b, x: b.node("Pad", x, b.ints(0, 0, 0, 0, 2, 0), b.const(np.float32(1))), "adds tokens of its own"),
        (lambda b, x: b.node("Concat", x, b.const(b.floats(2, 1, 8)), axis=1), "flows in beside"),
        (lambda b, x: b.node("Concat", *b.node("Split", x, outputs=2, axis=2, num_outputs=2)[::-1], axis=2), ALONE),
        (lambda b, x: b.node("Slice", x, b.ints(7), b.ints(-9), b.ints(2), b.ints(-1)), ALONE),
        (lambda b, x: b.node("Slice", x, b.ints(5, 7), b.ints(-9, -9), b.ints(1, 2), b.ints(-1, -1)), ALONE),
        (lambda b, x: b.node("Gather", x, b.ints(7, 6, 5, 4, 3, 2, 1, 0), axis=2), ALONE),
        (lambda b, x: b.node("Reshape", b.node("Transpose", x, perm=[0, 2, 1]), b.ints(2, 6, 8)), ALONE),
    ],
)
def test_reasons_on_the_way(between: Callable[[Builder, str], str], reason: str) -> None:
    model, structure = one(Builder(0), between)
    before = run(model, [{"x": np.ones((2, 6, 8), np.float32)}])[0]["y"]
    for name, options in PASSES:
        passed = apply(
            model, structure, [{"x": np.ones((2, 6, 8), np.float32)}], name, **{name.replace("-", "_"): options}
        )
        assert [c.done for c in passed.changes] == [False]
        assert reason in passed.changes[0].what
    assert np.array_equal(run(model, [{"x": np.ones((2, 6, 8), np.float32)}])[0]["y"], before)


def test_other_reasons() -> None:
    b = Builder(0)
    y = b.norm("x", 8)
    b.node("Add", b.linear(y, b.floats(8, 8)), y, out="y")
    assert first(*found(b, {"x": [2, 8]})) == ALONE
    b = Builder(0)
    y = b.norm("x", 8)
    b.linear(y, b.floats(8, 8), out="y")
    assert first(*found(b, {"x": [2, 8]}, "y", y)) == ALONE
    b = Builder(0)
    b.node("Identity", b.norm("x", 8), out="y")
    assert first(*found(b, {"x": [2, 8]})) == ALONE
    b = Builder(0)
    y = b.node("Mul", "x", b.const(np.float32(2)))
    b.linear(b.norm("x", 8, scale=b.floats(8)), b.floats(8, 8), out="y")
    b.nodes[-2].input[1] = "s"
    assert first(*found(b, {"x": [2, 8], "s": [8]})) == "it is not over the last axis alone, with a constant scale"
    b = Builder(0)
    b.linear(b.norm("x", 8), b.floats(8, 8), out="y")
    b.nodes[-2].input[2] = "s"
    assert first(*found(b, {"x": [2, 8], "s": [8]})) == "its bias is not constant"
    b = Builder(0)
    b.linear(b.node("LayerNormalization", "x", b.const(b.floats(6, 8)), axis=1), b.floats(8, 8), out="y")
    assert first(*found(b, {"x": [2, 6, 8]})) == "it is not over the last axis alone, with a constant scale"


def test_several_linears_and_shared_constants() -> None:
    b = Builder(3)
    gamma, beta = b.const(b.floats(8) + 2, "gamma"), b.const(b.floats(8), "beta")
    weight = b.const(b.floats(8, 4), "weight")
    x, z = b.norm("x", 8, gamma, beta), b.norm("z", 8, gamma, beta)
    outs = [b.linear(t, weight) for t in (x, x, z)]
    b.node("Sum", *outs, b.linear(b.node("Relu", z), b.floats(8, 4)), out="y")
    model, structure = found(b, {"x": [3, 8], "z": [3, 8]})
    assert len(first(model, structure).linears) == 2
    kept = {name: np.array(model.tensor(name).values) for name in ("gamma", "beta", "weight")}
    for name, options in PASSES:
        passed = apply(
            model, structure, [{"x": b.floats(3, 8), "z": b.floats(3, 8)}], name, **{name.replace("-", "_"): options}
        )
        assert [c.done for c in passed.changes] == [False, True]
        assert passed.drift["y"] > 100
    for name, values in kept.items():
        assert np.array_equal(model.tensor(name).values, values)


COPIES = {"rule": "balanced", "copies": "all"}


@pytest.mark.parametrize("rule", ["repq", "balanced"])
@pytest.mark.parametrize("bias", [True, False])
def test_linears_get_a_normalization_of_their_own(rule: str, bias: bool) -> None:
    b = Builder(4)
    constants = {
        "scale": b.const(np.exp(b.floats(8) * 1.5), "gamma"),
        "bias": b.const(b.floats(8), "beta") if bias else "",
    }
    x = b.norm("x", 8, **constants)
    ways = [
        b.linear(x, b.floats(8, 8)),
        b.linear(x, b.floats(8, 8), b.floats(8)),
        b.linear(b.node("Relu", x), b.floats(8, 8)),
    ]
    b.node("Sum", x, *ways, b.linear(b.node("Reshape", x, b.ints(2, 6, 8)), b.floats(8, 8)), out="y")
    model, structure = found(b, {"x": [2, 6, 8]})
    feeds = [{"x": b.floats(2, 6, 8)} for _ in range(2)]
    before = run(model, feeds, [x])[0][x]
    passed = apply(model, structure, feeds, "ln-reparam", ln_reparam={"rule": rule, "copies": "all"})
    assert [c.done for c in passed.changes] == [True]
    assert "2 linears" in passed.changes[0].what
    assert "of their own" in passed.changes[0].what
    assert passed.drift["y"] > 100
    after = discover(model).norm_readers.values()
    assert [(norm.exclusive, len(norm.readers)) for norm in after] == [(False, 1), (True, 2)]
    assert np.array_equal(run(model, feeds, [x])[0][x], before), "what the others read stays"


def test_no_copy_where_none_is_needed() -> None:
    b = Builder(0)
    b.node("Add", b.linear(b.norm("x", 8), b.floats(8, 8)), b.node("Relu", b.norm("z", 8)), out="y")
    model, structure = found(b, {"x": [2, 8], "z": [2, 8]})
    passed = apply(model, structure, [{"x": b.floats(2, 8), "z": b.floats(2, 8)}], "ln-reparam", ln_reparam=COPIES)
    assert [c.done for c in passed.changes] == [False, True]
    assert sum(node.op == "LayerNormalization" for node in model.graph.nodes) == 2


@pytest.mark.parametrize(("name", "options"), PASSES)
@pytest.mark.parametrize("pad", ["before", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_padded_windows_of_an_encoder(name: str, options: dict[str, str], pad: str, bias: bool) -> None:
    model, _, feeds = window(4, pad=pad, bias=bias)
    structure = discover(model)
    count = len(model.graph.nodes)
    passed = apply(model, structure, feeds, name, **{name.replace("-", "_"): options})
    assert [c.done for c in passed.changes] == [True]
    assert passed.drift["y"] > 100
    shifted = name == "ln-reparam" and not (pad == "before" and options.get("padded") == "scale")
    in_front = shifted and pad == "before"
    assert len(model.graph.nodes) == count + in_front + (shifted and not bias)
