"""Spread: what it measures, that it merges, and what it does with nothing and with numbers that are none."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.passes.spread import ROWS, Spread


def test_quantiles_mean_and_deviation_of_chosen_channels() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal([0, 100, -3], [1, 2, 0.5], (50, 20, 3)).astype(np.float32)
    spread = Spread(0.0, np.array([1, 2]))
    spread.update(x)
    rows = x.reshape(-1, 3)[:, 1:]
    assert np.allclose(spread.low, rows.min(axis=0))
    assert np.allclose(spread.high, rows.max(axis=0))
    assert np.allclose(spread.middle, (rows.min(axis=0) + rows.max(axis=0)) / 2)
    assert np.allclose(spread.reach, np.ptp(rows, axis=0) / 2)
    assert np.allclose(spread.extent, np.abs(rows).max(axis=0))
    assert np.allclose(spread.mean, rows.mean(axis=0, dtype=np.float64))
    assert np.allclose(spread.deviation, rows.std(axis=0, dtype=np.float64), rtol=1e-4)


def test_outliers_do_not_reach_the_robust_range() -> None:
    x = np.random.default_rng(0).normal(size=(4096, 1)).astype(np.float32)
    x[::1000] = 1e6
    spread = Spread(0.01)
    spread.update(x)
    assert 2 < spread.high[0] < 3


def test_many_rows_are_thinned_without_bias() -> None:
    x = np.linspace(-1, 1, 64 * ROWS, dtype=np.float32)[:, None]
    spread = Spread(0.002)
    spread.update(x)
    assert abs(spread.high[0] - 0.996) < 2e-3
    assert abs(spread.low[0] + 0.996) < 2e-3


@given(parts=st.lists(st.integers(0, 5), min_size=3, max_size=3), seed=st.integers(0, 99))
def test_merge_is_associative_and_equals_one_walk(parts: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole, shards = Spread(0.1), []
    for count in parts:
        shards.append(Spread(0.1))
        for _ in range(count):
            x = rng.normal(size=(7, 4)).astype(np.float32)
            whole.update(x)
            shards[-1].update(x)
    a, b, c = shards
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c))):
        assert merged.samples == whole.samples
        if whole.samples:
            assert np.allclose(merged.sums, whole.sums, rtol=1e-12)


def test_state_goes_through_a_checkpoint() -> None:
    spread, again = Spread(0.1), Spread(0.1)
    spread.update(np.arange(12, dtype=np.float32).reshape(4, 3))
    again.load(spread.arrays())
    again.update(np.ones((2, 3), np.float32))
    spread.update(np.ones((2, 3), np.float32))
    assert np.array_equal(again.sums, spread.sums)


def test_degenerate_samples() -> None:
    spread = Spread(0.002)
    spread.update(np.zeros((0, 3), np.float32))
    assert spread.samples == 0
    spread.update(np.array([[1, np.nan, 2], [3, 4, 5], [np.inf, 0, 0]], np.float32))
    assert spread.samples == 1
    assert spread.middle.tolist() == [3, 4, 5]
    assert spread.deviation.tolist() == [0, 0, 0]
