"""Spread: quantiles, mean and deviation of chosen channels, robust against outliers, None without values."""

from __future__ import annotations

import numpy as np

from onnxptq.passes.spread import ROWS, Spread, ask


def spread(x: np.ndarray, quantile: float, channels: np.ndarray | None = None) -> Spread | None:
    statistic = ask("t").statistic
    statistic.update(x.astype(np.float32))
    return Spread.of(statistic, quantile, channels)


def test_chosen_channels() -> None:
    x = np.random.default_rng(0).normal([0, 100, -3], [1, 2, 0.5], (20, 20, 3)).astype(np.float32)
    found = spread(x, 0.0, np.array([1, 2]))
    rows = x.reshape(-1, 3)[:, 1:]
    assert np.allclose(found.low, rows.min(axis=0))
    assert np.allclose(found.high, rows.max(axis=0))
    assert np.allclose(found.centre("range"), (rows.min(axis=0) + rows.max(axis=0)) / 2)
    assert np.allclose(found.centre("mean"), rows.mean(axis=0, dtype=np.float64))
    assert np.allclose(found.extent, np.abs(rows).max(axis=0))
    assert np.allclose(found.deviation, rows.std(axis=0, dtype=np.float64), rtol=1e-4)


def test_outliers_do_not_reach_the_robust_range() -> None:
    x = np.random.default_rng(0).normal(size=(4096, 1))
    x[::1000] = 1e6
    found = spread(x, 0.01)
    assert 2 < found.high[0] < 3


def test_many_tokens_are_thinned_without_bias() -> None:
    found = spread(np.linspace(-1, 1, 64 * ROWS)[:, None], 0.002)
    assert abs(found.high[0] - 0.996) < 5e-3
    assert abs(found.low[0] + 0.996) < 5e-3


def test_one_token_and_none() -> None:
    found = spread(np.array([[1.0, -2.0]]), 0.002)
    assert found.centre("range").tolist() == [1, -2]
    assert found.deviation.tolist() == [0, 0]
    assert spread(np.zeros((0, 2)), 0.002) is None
