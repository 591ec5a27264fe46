"""ln-reparam: one quantizer then fits all channels as well as one each did; degenerate channels do no harm."""

from __future__ import annotations

import numpy as np
import pytest

from onnxptq.passes.ln_reparam import LIMIT, PERCENTILES, balanced, repq
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
    even = repq(rows, bits)
    factor, offset = even.factor, even.offset
    moved = rows / factor - offset
    back = (coded(moved, bits, None) + offset) * factor
    per_channel, one = np.mean((back - rows) ** 2), np.mean((coded(rows, bits, None) - rows) ** 2)
    assert per_channel < 1.35 * np.mean((coded(rows, bits, 0) - rows) ** 2)
    assert per_channel < one / 3


@pytest.mark.parametrize("bits", [3, 4, 6, 8])
def test_the_quantizer_left_behind_is_that_of_each_channel(bits: int) -> None:
    """Its error at the linears' inputs, folded back, equals that of the quantizers of the channels, code by code."""
    rng = np.random.default_rng(bits)
    rows = rng.standard_t(4, (3000, 24)) * np.exp(0.5 * rng.normal(size=24)) + rng.normal(size=24)
    even, levels = repq(rows, bits), 2**bits - 1
    moved = rows / even.factor - even.offset
    one = (np.clip(np.round(moved / even.scale) + even.zero, 0, levels) - even.zero) * even.scale
    errors = []
    for share in PERCENTILES:
        low, high = np.quantile(rows, (1 - share, share), axis=0)
        step = (high - low) / levels
        zero = np.round(-low / step)
        errors.append(np.mean(((np.clip(np.round(rows / step) + zero, 0, levels) - zero) * step - rows) ** 2, axis=0))
    found = np.mean(((one + even.offset) * even.factor - rows) ** 2, axis=0)
    np.testing.assert_allclose(found, np.min(errors, axis=0), rtol=1e-3)


def test_offsets_are_whole_steps() -> None:
    # Ends so often taken that every percentile is one.
    rows = np.clip(np.linspace(-0.1, 1.1, 900), 0, 1)[:, None] * [2, 4, 1] + [-1, 1, -9]
    even = repq(rows, 6)
    factor, offset = even.factor, even.offset
    ranges = np.array([2, 4, 1])
    assert np.allclose(factor, ranges / ranges.mean())
    step = ranges.mean() / 63
    assert np.allclose(offset / step, np.round(offset / step))


@pytest.mark.parametrize("rule", ["repq", "balanced"])
@pytest.mark.parametrize(
    "rows", [np.zeros((5, 3)), np.full((4, 2), 7.0), np.array([[1.0, 2.0]]), np.array([[0.0, 1e9], [1.0, -1e9]])]
)
def test_degenerate_channels(rule: str, rows: np.ndarray) -> None:
    if rule == "repq":
        even = repq(rows, 4)
        factor, offset = even.factor, even.offset
    else:
        factor, offset = balanced(rows, np.ones(rows.shape[1]), 0.002)
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
