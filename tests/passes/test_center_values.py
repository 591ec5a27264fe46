"""center-values: exact where probabilities sum to 1 and every value token carries the bias; refused elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.passes.graphs import apply, cross, run, window


@given(
    seed=st.integers(0, 999),
    heads=st.integers(1, 3),
    bias=st.booleans(),
    mask=st.booleans(),
    centre=st.sampled_from(["range", "mean"]),
)
def test_cross_attention_keeps_its_outputs(seed: int, heads: int, bias: bool, mask: bool, centre: str) -> None:
    model, structure, feeds = cross(seed, heads=heads, bias=bias, mask=mask)
    passed = apply(model, structure, feeds, "center-values", center_values={"centre": centre})
    assert [c.done for c in passed.changes] == [True]
    assert passed.drift["y"] > 100


@pytest.mark.parametrize("pad", ["before", "none"])
@pytest.mark.parametrize("bias", [True, False])
def test_both_centrings_on_padded_windows(pad: str, bias: bool) -> None:
    model, structure, feeds = window(3, pad=pad, bias=bias)
    passed = apply(model, structure, feeds, "center-keys", "center-values")
    assert [(c.pass_name, c.done) for c in passed.changes] == [("center-keys", True), ("center-values", True)]
    assert passed.drift["y"] > 100
    assert len(model.graph.nodes) == len(window(3, pad=pad, bias=bias)[0].graph.nodes) + (0 if bias else 2)


def test_values_lie_around_zero_afterwards() -> None:
    model, structure, feeds = cross(1)
    apply(model, structure, feeds, "center-values", center_values={"centre": "mean"})
    v = np.concatenate(
        [
            s[next(iter(structure.attentions.values())).v]
            for s in run(model, feeds, [next(iter(structure.attentions.values())).v])
        ]
    )
    assert np.abs(v.mean(axis=(0, 2))).max() < 1e-5


def test_zeroed_rows_are_a_reason() -> None:
    model, structure, feeds = cross(0)
    attention = next(iter(structure.attentions.values()))
    softmax, av = model.nodes()[attention.name], model.nodes()[attention.av]
    zeroed = gs.Variable("zeroed", dtype=np.float32, shape=softmax.outputs[0].shape)
    keep = gs.Constant("keep", np.array([1, 0, 1, 1, 1], np.float32).reshape(5, 1))
    av.inputs[0] = zeroed
    model.graph.nodes.insert(
        model.graph.nodes.index(av), gs.Node("Mul", "zero", inputs=[softmax.outputs[0], keep], outputs=[zeroed])
    )
    for known in (attention.probabilities, "zeroed"):
        structure.attentions[attention.name] = replace(attention, probabilities=known)
        passed = apply(model, structure, feeds, "center-values")
        assert [c.done for c in passed.changes] == [False]
        assert "changed behind the softmax" in passed.changes[0].what


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"v_source": None}, "no single linear makes its values"),
        ("shared", "something else reads its values too"),
        ({"o_linear": None}, "no linear alone reads its output"),
    ],
)
def test_reasons(change: dict[str, object] | str, reason: str) -> None:
    model, structure, feeds = cross(0)
    name, attention = next(iter(structure.attentions.items()))
    change = change if isinstance(change, dict) else {"v_source": replace(attention.v_source, exclusive=False)}
    structure.attentions[name] = replace(attention, **change)
    passed = apply(model, structure, feeds, "center-values")
    assert [(c.done, c.what) for c in passed.changes] == [(False, f"left alone: {reason}")]


def test_tokens_padded_behind_the_linear_are_a_reason() -> None:
    model, structure, feeds = window(3, pad="behind")
    passed = apply(model, structure, feeds, "center-values")
    assert [c.done for c in passed.changes] == [False]
    assert "adds tokens of its own" in passed.changes[0].what
