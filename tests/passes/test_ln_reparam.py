"""ln-reparam: one quantizer then fits all channels as well as one each did; degenerate channels do no harm."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.passes.ln_reparam import LIMIT, balanced, repq
from onnxptq.structure import discover
from tests.passes.graphs import Builder, apply, run


def coded(x: np.ndarray, bits: int, axis: int | None) -> np.ndarray:
    """x after affine quantization with the range of each channel (axis 0) or of all."""
    low, high = x.min(axis=axis), x.max(axis=axis)
    step = (high - low) / (2**bits - 1)
    zero = np.round(-low / step)
    return (np.clip(np.round(x / step) + zero, 0, 2**bits - 1) - zero) * step


@pytest.mark.parametrize("bits", [4, 8])
def test_one_range_does_what_one_for_each_channel_did(bits: int) -> None:
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (2000, 16)) * np.exp(rng.normal(size=16)) + rng.normal(size=16) * 2
    factor, offset = repq(rows, bits)
    moved = rows / factor - offset
    back = (coded(moved, bits, None) + offset) * factor
    per_channel, one = np.mean((back - rows) ** 2), np.mean((coded(rows, bits, None) - rows) ** 2)
    assert per_channel < 1.35 * np.mean((coded(rows, bits, 0) - rows) ** 2)
    assert per_channel < one / 3


def test_offsets_are_whole_steps() -> None:
    # Ends so often taken that every percentile is one.
    rows = np.clip(np.linspace(-0.1, 1.1, 900), 0, 1)[:, None] * [2, 4, 1] + [-1, 1, -9]
    factor, offset = repq(rows, 6)
    ranges = np.array([2, 4, 1])
    assert np.allclose(factor, ranges / ranges.mean())
    step = ranges.mean() / 63
    assert np.allclose(offset / step, np.round(offset / step))


@pytest.mark.parametrize("rule", ["repq", "balanced"])
@pytest.mark.parametrize(
    "rows", [np.zeros((5, 3)), np.full((4, 2), 7.0), np.array([[1.0, 2.0]]), np.array([[0.0, 1e9], [1.0, -1e9]])]
)
def test_degenerate_channels(rule: str, rows: np.ndarray) -> None:
    factor, offset = repq(rows, 4) if rule == "repq" else balanced(rows, np.ones(rows.shape[1]), 0.002)
    assert np.isfinite(factor).all()
    assert np.isfinite(offset).all()
    assert ((factor >= 1 / LIMIT) & (factor <= LIMIT)).all()


def test_balanced_is_the_root_of_deviation_over_weight() -> None:
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(3000, 4)) * [1, 4, 1, 1] + [0, 0, 5, 0]
    factor, offset = balanced(rows, np.array([1, 1, 1, 16.0]), 0.002)
    assert np.exp(np.log(factor).mean()) == pytest.approx(1)
    assert factor / factor[0] == pytest.approx([1, 2, 1, 0.25], rel=0.05)
    assert np.allclose(rows.mean(axis=0) / factor - offset, 0, atol=0.3)


def test_a_dead_channel_in_a_model() -> None:
    b = Builder(0)
    scale, bias = b.floats(8) + 2, b.floats(8)
    scale[2], bias[2] = 0, 5
    x = b.norm("x", 8, scale, bias)
    b.linear(x, b.floats(8, 4), out="y")
    model, _ = b.build({"x": [30, 8]}, ["y"])
    structure = discover(model)
    feeds = [{"x": b.floats(30, 8)}]
    passed = apply(model, structure, feeds, "ln-reparam")
    assert passed.drift["y"] > 100
    out = run(model, feeds, [x])[0][x]
    assert out.min() < 0.1, "a range that zero is far from would waste codes"
    assert out.max() > -0.1
    assert np.ptp(out) < 12
