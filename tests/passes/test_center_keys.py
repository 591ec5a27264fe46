"""center-keys: exact for any centre, on cross, fused and padded attention; refused where scores or keys are outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.graph.model import Model
from onnxptq.structure import Structure
from tests.passes.graphs import Feeds, apply, cross, run, window


def keys(model: Model, structure: Structure, feeds: Feeds) -> np.ndarray:
    """All keys, one row a token."""
    attention = next(iter(structure.attentions.values()))
    return np.concatenate(
        [
            np.moveaxis(s[attention.k], 1, -2).reshape(-1, attention.heads * attention.dim)
            for s in run(model, feeds, [attention.k])
        ]
    )


@given(
    seed=st.integers(0, 999),
    heads=st.integers(1, 3),
    bias=st.booleans(),
    mask=st.booleans(),
    offset=st.sampled_from([0.0, 8.0, 30.0]),
    centre=st.sampled_from(["range", "mean"]),
)
def test_cross_attention_keeps_its_outputs(
    seed: int, heads: int, bias: bool, mask: bool, offset: float, centre: str
) -> None:
    model, structure, feeds = cross(seed, heads=heads, bias=bias, mask=mask, offset=offset)
    passed = apply(model, structure, feeds, "center-keys", center_keys={"centre": centre})
    assert [c.done for c in passed.changes] == [True]
    assert passed.drift["y"] > 80


@pytest.mark.parametrize("pad", ["before", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_padded_windows_with_relative_position(pad: str, bias: bool) -> None:
    model, structure, feeds = window(3, pad=pad, bias=bias)
    passed = apply(model, structure, feeds, "center-keys")
    assert [c.done for c in passed.changes] == [True]
    assert passed.drift["y"] > 100
    assert len(model.graph.nodes) == len(window(3, pad=pad, bias=bias)[0].graph.nodes) + (not bias)


def test_keys_lie_around_zero_afterwards() -> None:
    model, structure, feeds = cross(1, offset=8.0)
    assert np.abs(keys(model, structure, feeds).mean(axis=0)).max() > 7
    change = apply(model, structure, feeds, "center-keys", center_keys={"quantile": 0.0}).changes[0]
    after = keys(model, structure, feeds)
    low, high = after.min(axis=0), after.max(axis=0)
    assert np.allclose(low, -high, atol=1e-5)
    assert "keys centred in the bias of" in change.what
    assert np.allclose((np.array(change.data["high"]) - change.data["low"]) / 2, high, atol=1e-5)


def test_the_mean() -> None:
    model, structure, feeds = cross(1, offset=8.0)
    apply(model, structure, feeds, "center-keys", center_keys={"centre": "mean"})
    assert np.abs(keys(model, structure, feeds).mean(axis=0)).max() < 1e-5


def test_only_key_channels_of_a_fused_bias_move() -> None:
    model, structure, feeds = window(5)
    linear = structure.linears[next(iter(structure.attentions.values())).k_source.linear]
    before = np.array(model.tensor(linear.bias).values)
    apply(model, structure, feeds, "center-keys")
    moved = model.tensor(linear.bias).values != before
    assert moved.tolist() == [False] * 8 + [True] * 8 + [False] * 8


def test_a_shared_bias_is_cloned() -> None:
    model, structure, feeds = cross(2)
    q, k = list(structure.linears.values())[:2]
    node = model.nodes()[k.bias_node]
    node.inputs[1] = model.tensor(q.bias)
    kept = np.array(model.tensor(q.bias).values)
    assert apply(model, structure, feeds, "center-keys").drift["y"] > 80
    assert np.array_equal(model.tensor(q.bias).values, kept)


def test_arrays_are_not_written_into() -> None:
    model, structure, feeds = cross(2)
    held = [(c.values, np.array(c.values)) for c in model.constants()]
    apply(model, structure, feeds, "center-keys", "center-values")
    assert all(np.array_equal(now, then) for now, then in held)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"apart": "a reader of its own"}, "its scores go elsewhere than straight to the softmax"),
        ({"k_source": None}, "no single linear makes its keys"),
        ("shared", "something else reads its keys too"),
    ],
)
def test_reasons(change: dict[str, object] | str, reason: str) -> None:
    model, structure, feeds = cross(0)
    name, attention = next(iter(structure.attentions.items()))
    change = change if isinstance(change, dict) else {"k_source": replace(attention.k_source, exclusive=False)}
    structure.attentions[name] = replace(attention, **change)
    passed = apply(model, structure, feeds, "center-keys")
    assert [(c.done, c.what) for c in passed.changes] == [(False, f"left alone: {reason}")]
    assert passed.drift == {}


def test_tokens_padded_behind_the_linear_are_a_reason() -> None:
    model, structure, feeds = window(3, pad="behind")
    passed = apply(model, structure, feeds, "center-keys")
    assert [c.done for c in passed.changes] == [False]
    assert "adds tokens of its own" in passed.changes[0].what


def test_constant_zero_keys_are_left() -> None:
    model, structure, feeds = cross(0, bias=False)
    linear = structure.linears[next(iter(structure.attentions.values())).k_source.linear]
    model.tensor(linear.weight).values = np.zeros((6, 8), np.float32)
    passed = apply(model, structure, feeds, "center-keys")
    assert [(c.done, c.what) for c in passed.changes] == [(False, "left alone: its keys are centred")]
