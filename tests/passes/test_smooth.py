"""smooth: the factors of the paper's formula."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.structure import discover
from tests.passes.graphs import Builder, apply, run


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_factors(alpha: float) -> None:
    b = Builder(0)
    x = b.norm("x", 8, scale=(b.floats(8) + 2) * np.float32([100, 1, 1, 1, 1, 1, 1, 0.01]))
    weights = [b.floats(8, 4), b.floats(8, 6)]
    b.node("Concat", *[b.linear(x, w) for w in weights], axis=1, out="y")
    model, _ = b.build({"x": [50, 8]}, ["y"])
    structure = discover(model)
    feeds = [{"x": b.floats(50, 8)} for _ in range(2)]
    before = np.concatenate([s[x] for s in run(model, feeds, [x])])
    change = apply(model, structure, feeds, "smooth", smooth={"alpha": alpha}).changes[0]
    most, weight = (
        np.abs(before).max(axis=0).astype(float),
        np.abs(np.concatenate(weights, axis=1)).max(axis=1).astype(float),
    )
    assert np.allclose(change.data["factors"], most**alpha / weight ** (1 - alpha), rtol=1e-6)
    after = np.concatenate([s[x] for s in run(model, feeds, [x])])
    assert np.allclose(after, before / change.data["factors"], rtol=1e-4, atol=1e-6)


def test_dead_channels_stay() -> None:
    b = Builder(1)
    weight = b.floats(8, 4)
    weight[3] = 0
    scale, bias = b.floats(8) + 2, b.floats(8)
    scale[5] = bias[5] = 0
    b.linear(b.norm("x", 8, scale, bias), weight, out="y")
    model, _ = b.build({"x": [9, 8]}, ["y"])
    structure = discover(model)
    change = apply(model, structure, [{"x": b.floats(9, 8)}], "smooth").changes[0]
    assert (change.data["factors"][3], change.data["factors"][5]) == (1, 1)
