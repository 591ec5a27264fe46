"""bimodal: mirrors exactly the keys with two modes, bit for bit, within the paper's scope; and reports its findings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.sources.opening import open_source
from onnxptq.calibration.sources.source import InputSpec
from onnxptq.passes.base import Passed, run_passes
from onnxptq.structure import Source
from tests.passes.graphs import Builder, Feeds, apply, cross, run, window


def keys(model, structure, feeds: Feeds) -> np.ndarray:
    attention = next(iter(structure.attentions.values()))
    return np.concatenate(
        [
            s[attention.k].transpose(0, 2, 1, 3).reshape(-1, attention.heads * attention.dim)
            for s in run(model, feeds, [attention.k])
        ]
    )


def done(passed: Passed) -> list[bool]:
    return [change.done for change in passed.changes]


@given(seed=st.integers(0, 999), heads=st.integers(1, 3), bias=st.booleans(), mask=st.booleans())
def test_two_heaps_become_one(seed: int, heads: int, bias: bool, mask: bool) -> None:
    model, structure, feeds = cross(seed, heads=heads, dim=8, bias=True, mask=mask, offset=30.0)
    before = keys(model, structure, feeds)
    passed = apply(model, structure, feeds, "bimodal")
    after = keys(model, structure, feeds)
    if done(passed) == [True]:
        turned = passed.changes[0].data["mirrored"]
        assert np.array_equal(np.delete(after, turned, axis=1), np.delete(before, turned, axis=1))
        assert np.array_equal(after[:, turned], -before[:, turned])
        assert passed.drift["y"] > 120
        assert (after[: 2 * 12].mean(axis=0) >= 0).all()
    else:
        assert np.array_equal(before, after)


@pytest.mark.parametrize("mask", [True, False])
def test_scores_stay(mask: bool) -> None:
    model, structure, feeds = cross(3, heads=2, dim=8, mask=mask, offset=30.0)
    scores = model.nodes()[next(iter(structure.attentions.values())).qk].outputs[0].name
    before = run(model, feeds, [scores])
    assert done(apply(model, structure, feeds, "bimodal")) == [True]
    for was, now in zip(before, run(model, feeds, [scores]), strict=True):
        np.testing.assert_allclose(now[scores], was[scores], rtol=0, atol=1e-5 * np.abs(was[scores]).max())


def test_the_decision_is_told() -> None:
    model, structure, feeds = cross(1, dim=8, offset=30.0)
    change = apply(model, structure, feeds, "bimodal").changes[0]
    assert change.done
    low, high = change.data["peaks"][0]
    assert low == pytest.approx(-30, abs=4)
    assert high == pytest.approx(30, abs=4)
    assert "peaks of the keys at -" in change.what
    assert len(change.data["densities"][0]) == 128
    assert change.data["bimodal"] == [True]


def test_one_heap_is_left() -> None:
    model, structure, feeds = cross(1, dim=8, offset=0.0)
    passed = apply(model, structure, feeds, "bimodal")
    assert done(passed) == [False]
    assert "not bimodal" in passed.changes[0].what
    assert passed.changes[0].data["bimodal"] == [False]


def test_scope() -> None:
    model, structure, feeds = cross(1, dim=8, offset=30.0, token_to_image=False)
    assert apply(model, structure, feeds, "bimodal").changes == ()
    assert done(apply(model, structure, feeds, "bimodal", bimodal={"scope": "all"})) == [True]


def test_the_first_image_decides_or_a_majority() -> None:
    for first, bimodal in ((0, True), (1, False)):
        model, structure, feeds = cross(1, dim=8, offset=30.0)
        modes = list(feeds)
        for i in range(3):
            if i != first:
                modes[i] = feeds[i] | {"image": feeds[i]["image"] * 100}
        kept = model.copy()
        assert done(apply(model, structure, modes, "bimodal")) == [bimodal]
        passed = apply(kept, structure, modes, "bimodal", bimodal={"images": 3})
        assert done(passed) == [False]
        assert "1 of 3 images bimodal" in passed.changes[0].what


def test_a_mean_of_zero_counts_as_positive() -> None:
    b = Builder(0)
    weight = np.zeros((6, 4), np.float32)
    bias = np.array([-30, 30, -30, 0], np.float32)
    tokens = np.zeros((1, 400, 6), np.float32)
    tokens[:, :, 0] = b.rng.normal(size=(1, 400))
    tokens[:, :, 1] = np.tile([1, -1], 200)
    weight[0], weight[1, 3] = [3, 3, 3, 0], 30
    q, k = (
        b.heads(b.linear("x", b.floats(6, 4) if i == 0 else weight, b.floats(4) if i == 0 else bias), 1, 1, 4)
        for i in (0, 1)
    )
    b.attention(q, k, k, heads=1, dim=4, scale=0.5, out="y", token_to_image=True)
    made = list(b.linears)
    channels = np.arange(4)[None]
    b.know(q_source=Source(made[0], channels, True), k_source=Source(made[1], channels, True))
    model, structure = b.build({"x": [1, 400, 6]}, ["y"])
    linear = structure.linears[made[1]]
    # The values are read here too, so only the scores stay: look at the weights.
    passed = apply(model, structure, [{"x": tokens}], "bimodal", tolerance=np.inf)
    assert passed.changes[0].data["mirrored"] == [0, 2]
    assert model.tensor(linear.bias).values.tolist() == [30, 30, 30, 0]
    assert np.array_equal(model.tensor(linear.weight).values[:, 3], weight[:, 3])


@pytest.mark.parametrize("which", ["q_source", "k_source"])
def test_another_reader_is_a_reason(which: str) -> None:
    model, structure, feeds = cross(1, dim=8, offset=30.0)
    name, attention = next(iter(structure.attentions.items()))
    structure.attentions[name] = replace(attention, **{which: replace(getattr(attention, which), exclusive=False)})
    passed = apply(model, structure, feeds, "bimodal")
    assert done(passed) == [False]
    assert "something else reads its" in passed.changes[0].what


def test_relative_position_of_the_encoder_is_a_reason() -> None:
    model, structure, feeds = window(1)
    passed = apply(model, structure, feeds, "bimodal", bimodal={"scope": "all"})
    assert [c.what for c in passed.changes] == ["left alone: something else reads its queries too"]


def test_channels_that_are_no_partners_are_a_reason() -> None:
    model, structure, feeds = cross(1, dim=8, offset=30.0)
    name, attention = next(iter(structure.attentions.items()))
    shared = replace(attention.q_source, channels=np.stack([np.arange(8), np.arange(8)]))
    structure.attentions[name] = replace(attention, q_source=shared)
    passed = apply(model, structure, feeds, "bimodal")
    assert [c.what for c in passed.changes] == ["left alone: a channel of its queries meets several of its keys"]


def test_the_walk_stops_after_the_images_that_decide() -> None:
    model, structure, feeds = cross(1, dim=8, offset=30.0)
    inputs = [InputSpec(name, np.dtype(np.float32), array.shape) for name, array in feeds[0].items()]
    for images in (1, 2):
        engine = Engine(model, open_source(feeds, inputs=inputs, preprocess="none"), threads=1)
        passed = run_passes(
            model.copy(),
            {"bimodal": {"images": images}},
            discover=lambda _: structure,
            fill=lambda now, requests, stage: engine.fill(requests, stage=stage, model=now),  # noqa: B023
            outputs=lambda now: run(now, feeds),
        )
        assert done(passed) == [True]
        assert [walk.forwards for walk in engine.walks] == [images]
