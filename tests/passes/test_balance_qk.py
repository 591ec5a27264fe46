"""balance-qk: scores stay, ranges of queries and keys become equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.structure import Source
from tests.passes.graphs import Builder, Feeds, apply, cross, run, window


def extents(model, structure, feeds: Feeds) -> tuple[np.ndarray, np.ndarray]:
    attention = next(iter(structure.attentions.values()))
    samples = run(model, feeds, [attention.q, attention.k])
    q, k = (
        np.abs(np.concatenate([s[name] for s in samples])).max(axis=(0, 2)).reshape(-1)
        for name in (attention.q, attention.k)
    )
    return q, k


@given(
    seed=st.integers(0, 999),
    heads=st.integers(1, 3),
    bias=st.booleans(),
    mask=st.booleans(),
    offset=st.sampled_from([0.0, 8.0]),
)
def test_cross_attention_keeps_its_outputs(seed: int, heads: int, bias: bool, mask: bool, offset: float) -> None:
    model, structure, feeds = cross(seed, heads=heads, bias=bias, mask=mask, offset=offset)
    passed = apply(model, structure, feeds, "balance-qk")
    assert [c.done for c in passed.changes] == [True]
    assert passed.drift["y"] > 90


@pytest.mark.parametrize("pad", ["before", "behind", "none"])
def test_fused_and_padded(pad: str) -> None:
    model, structure, feeds = window(3, pad=pad, relative=False)
    passed = apply(model, structure, feeds, "balance-qk")
    assert [c.done for c in passed.changes] == [True]
    assert passed.drift["y"] > 100


def test_ranges_become_equal() -> None:
    model, structure, feeds = cross(1, offset=8.0)
    q, k = extents(model, structure, feeds)
    apply(model, structure, feeds, "balance-qk", balance_qk={"quantile": 0.0})
    after_q, after_k = extents(model, structure, feeds)
    assert np.allclose(after_q, np.sqrt(q * k), rtol=1e-5)
    assert np.allclose(after_k, np.sqrt(q * k), rtol=1e-5)
    assert not np.allclose(q, k, rtol=0.5)


def test_factors_are_limited_and_dead_channels_kept() -> None:
    model, structure, feeds = cross(1, bias=False)
    q = structure.linears[next(iter(structure.attentions.values())).q_source.linear]
    weight = np.array(model.tensor(q.weight).values)
    weight[:, 0], weight[:, 1] = 0, weight[:, 1] * 1e-6
    model.tensor(q.weight).values = weight
    change = apply(model, structure, feeds, "balance-qk", balance_qk={"limit": 7.0}).changes[0]
    assert change.data["factors"][:2] == [1.0, 7.0]


def test_a_key_channel_shared_by_heads_takes_the_widest_query() -> None:
    b = Builder(2)
    q = b.linear("x", b.floats(6, 8), b.floats(8))
    k = b.linear("x", b.floats(6, 4) * 5)
    v = b.heads(b.linear("x", b.floats(6, 4)), 1, 1, 4)
    shared = b.node("Expand", b.heads(k, 1, 1, 4), b.ints(1, 2, 1, 4))
    y = b.attention(b.heads(q, 1, 2, 4), shared, v, heads=2, dim=4, scale=0.5)
    b.node("Identity", y, out="y")
    b.know(q_source=b.source(q, np.arange(8).reshape(2, 4)), k_source=b.source(k, np.stack([np.arange(4)] * 2)))
    model, structure = b.build({"x": [1, 9, 6]}, ["y"])
    feeds = [{"x": b.floats(1, 9, 6)}]
    before_q, before_k = extents(model, structure, feeds)
    passed = apply(model, structure, feeds, "balance-qk", balance_qk={"quantile": 0.0})
    assert passed.drift["y"] > 100
    factors = np.array(passed.changes[0].data["factors"])
    assert np.allclose(factors, np.sqrt(before_k[:4] / before_q.reshape(2, 4).max(axis=0)), rtol=1e-5)


@pytest.mark.parametrize("which", ["q_source", "k_source"])
def test_reasons(which: str) -> None:
    model, structure, feeds = cross(0)
    name, attention = next(iter(structure.attentions.items()))
    for source in (None, replace(getattr(attention, which), exclusive=False)):
        structure.attentions[name] = replace(attention, **{which: source})
        passed = apply(model, structure, feeds, "balance-qk")
        assert [c.done for c in passed.changes] == [False]
    structure.attentions[name] = replace(
        attention, q_source=Source(attention.q_source.linear, np.zeros((2, 4), np.int64), True)
    )
    assert "meets several of its keys" in apply(model, structure, feeds, "balance-qk").changes[0].what


def test_relative_position_is_a_reason() -> None:
    model, structure, feeds = window(0, relative=True)
    assert [c.what for c in apply(model, structure, feeds, "balance-qk").changes] == [
        "left alone: something else reads its queries too"
    ]
