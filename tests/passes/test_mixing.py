"""mix-qk and mix-values: outputs stay, second moments become equal, and the report names those left alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.passes.mixing import balancing, moment, power, rotation
from onnxptq.structure import Source
from tests.passes.graphs import Builder, apply, cross, run, window

ALL = {"scope": "all"}


@given(seed=st.integers(0, 99), n=st.integers(1, 12), rank=st.integers(0, 12))
def test_balancing_makes_moments_equal(seed: int, n: int, rank: int) -> None:
    rng = np.random.default_rng(seed)
    q, k = (rng.standard_normal((50, n)) @ rng.standard_normal((n, n)) for _ in range(2))
    q[:, rank:] = 0
    a, b = moment(q, 1e-3), moment(k, 1e-3)
    mixing = balancing(a, b)
    back = np.linalg.inv(mixing)
    assert np.allclose(mixing.T @ a @ mixing, back @ b @ back.T, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 12, 64])
def test_rotation_is_orthogonal_and_spreads(n: int) -> None:
    mixed = rotation(n)
    assert np.allclose(mixed @ mixed.T, np.eye(n), atol=1e-12)
    assert np.abs(mixed).max() <= np.sqrt(2 / n) + 1e-12


def test_power_of_a_singular_matrix_is_finite() -> None:
    assert np.isfinite(power(np.zeros((3, 3)), -0.5)).all()


@given(seed=st.integers(0, 999), heads=st.integers(1, 3), bias=st.booleans(), mask=st.booleans())
def test_cross_attention_keeps_its_outputs(seed: int, heads: int, bias: bool, mask: bool) -> None:
    model, structure, feeds = cross(seed, heads=heads, bias=bias, mask=mask)
    passed = apply(model, structure, feeds, "mix-qk", "mix-values", mix_qk=ALL, mix_values=ALL)
    assert [c.done for c in passed.changes] == [True, True]
    assert passed.drift["y"] > 90


@pytest.mark.parametrize("pad", ["before", "behind", "none"])
@pytest.mark.parametrize("relative", [False, True])
def test_fused_windows_with_relative_positions(pad: str, relative: bool) -> None:
    model, structure, feeds = window(3, pad=pad, relative=relative)
    before = [np.array(c.values) for c in model.constants() if tuple(c.shape) == (4, 4)]
    passed = apply(model, structure, feeds, "mix-qk", "mix-values")
    assert [c.done for c in passed.changes] == [True, True]
    assert passed.drift["y"] > 100
    after = [np.array(c.values) for c in model.constants() if tuple(c.shape) == (4, 4)]
    assert ("with relative positions" in passed.changes[0].what) == relative
    assert not relative or not np.allclose(before[0], after[0])


def test_moments_of_queries_and_keys_become_equal() -> None:
    model, structure, feeds = cross(1, heads=1, offset=4.0)
    attention = next(iter(structure.attentions.values()))

    def moments() -> tuple[np.ndarray, np.ndarray]:
        samples = run(model, feeds, [attention.q, attention.k])
        q, k = (
            np.concatenate([s[name].reshape(-1, attention.dim) for s in samples]) for name in (attention.q, attention.k)
        )
        return q.T @ q / len(q), k.T @ k / len(k)

    q, k = moments()
    assert not np.allclose(q / np.trace(q), k / np.trace(k), atol=0.1)
    apply(model, structure, feeds, "mix-qk", mix_qk=ALL | {"ridge": 1e-6})
    q, k = moments()
    assert np.allclose(q / np.trace(q), k / np.trace(k), atol=0.02)


def test_reasons() -> None:
    model, structure, feeds = cross(1)
    passed = apply(model, structure, feeds, "mix-qk", "mix-values")
    assert [c.done for c in passed.changes] == [False, False]
    assert "two linears make its queries and keys" in passed.changes[0].what
    assert "two linears make its keys and values" in passed.changes[1].what
    assert not passed.drift
    name, attention = next(iter(structure.attentions.items()))
    structure.attentions[name] = replace(attention, k_source=None, o_linear=None)
    passed = apply(model, structure, feeds, "mix-qk", "mix-values", mix_qk=ALL, mix_values=ALL)
    assert [c.done for c in passed.changes] == [False, False]
    assert "no single linear makes its keys" in passed.changes[0].what
    assert "no linear alone reads its output" in passed.changes[1].what


def test_queries_that_something_else_reads_are_left_alone() -> None:
    b = Builder(0)
    channels = np.arange(8).reshape(2, 4)
    names = [b.linear("x", b.floats(6, 8)) for _ in range(3)]
    q, k, v = (b.heads(name, 2, 2, 4) for name in names)
    y = b.attention(q, k, v, heads=2, dim=4, scale=0.5)
    b.linear(b.merge(y, 2, 8), b.floats(8, 6), out="y")
    b.node("Relu", q, out="z")
    b.know(q_source=replace(b.source(names[0], channels), exclusive=False), k_source=b.source(names[1], channels))
    model, structure = b.build({"x": [2, 5, 6]}, ["y", "z"])
    change = apply(model, structure, [{"x": b.floats(2, 5, 6)}], "mix-qk", mix_qk=ALL).changes[0]
    assert not change.done
    assert "something else than a product with a constant" in change.what


@pytest.mark.parametrize("first", [(0, 2, 1), (1, 4, 1), (3, -9, -1), (0, 4, 1)])
def test_queries_of_which_a_product_reads_parts_are_left_alone(first: tuple[int, int, int]) -> None:
    b = Builder(0)
    names = [b.linear("x", b.floats(6, 8)) for _ in range(3)]
    q, k, v = (b.heads(name, 2, 2, 4) for name in names)
    b.linear(b.merge(b.attention(q, k, v, heads=2, dim=4, scale=0.5), 2, 8), b.floats(8, 6), out="y")
    start, end, step = first
    part = b.node("Slice", q, b.ints(start), b.ints(end), b.ints(-1), b.ints(step))
    b.node("MatMul", part, b.const(b.floats(len(range(4)[start:end:step]) if step > 0 else 4, 3)), out="z")
    channels = np.arange(8).reshape(2, 4)
    b.know(q_source=replace(b.source(names[0], channels), exclusive=False), k_source=b.source(names[1], channels))
    model, structure = b.build({"x": [2, 5, 6]}, ["y", "z"])
    passed = apply(model, structure, [{"x": b.floats(2, 5, 6)}], "mix-qk", mix_qk=ALL)
    assert passed.changes[0].done == (first == (0, 4, 1))
    assert passed.changes[0].done or "parts of its queries" in passed.changes[0].what


def test_heads_that_share_keys_are_left_alone() -> None:
    b = Builder(0)
    names = [b.linear("x", b.floats(6, 8)), b.linear("x", b.floats(6, 4))]
    q = b.heads(names[0], 2, 2, 4)
    k = b.heads(names[1], 2, 1, 4)
    b.attention(q, k, k, heads=2, dim=4, scale=0.5, out="y")
    shared = np.tile(np.arange(4), (2, 1))
    b.know(
        q_source=b.source(names[0], np.arange(8).reshape(2, 4)),
        k_source=Source(b.source(names[1], shared).linear, shared, True),
    )
    model, structure = b.build({"x": [2, 5, 6]}, ["y"])
    change = apply(model, structure, [{"x": b.floats(2, 5, 6)}], "mix-qk", mix_qk=ALL).changes[0]
    assert not change.done
