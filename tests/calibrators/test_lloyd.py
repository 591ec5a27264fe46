"""lloyd: levels follow the density of values, weighted by the weights that read them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.calibrators.lloyd import Lloyd, lloyd
from onnxptq.ops import schemes
from onnxptq.ops.table import table
from onnxptq.ops.uniform import affine

UNIFORM, TABLE = schemes()["uniform"], schemes()["table"]


def error(rows: np.ndarray, coded: np.ndarray, importance: np.ndarray) -> float:
    return float((np.square(rows - coded, dtype=np.float64) * importance).sum())


def best_uniform(rows: np.ndarray, bits: int, importance: np.ndarray) -> float:
    low, high = float(rows.min()), float(rows.max())
    return min(
        error(rows, UNIFORM.fake(rows, affine(f * low, f * high, bits)), importance) for f in np.arange(1, 101) / 100
    )


@pytest.mark.parametrize("bits", [3, 4, 6])
@pytest.mark.parametrize("shape", ["normal", "gelu", "laplace"])
def test_better_than_any_uniform_range(bits: int, shape: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (256, 32)).astype(np.float32)
    rows = {"normal": x, "gelu": np.maximum(x, 0.05 * x), "laplace": rng.laplace(0, 1, x.shape).astype(np.float32)}[
        shape
    ]
    ones = np.ones(32)
    levels = lloyd(rows, ones, bits, float(rows.min()), float(rows.max()))
    assert error(rows, TABLE.fake(rows, table(levels, bits)), ones) < best_uniform(rows, bits, ones)


def test_important_channels_are_served() -> None:
    """Channel 0 holds small values that matter, channel 1 large ones that do not."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 1, (512, 2)).astype(np.float32) * np.array([0.1, 10], np.float32)
    found = {}
    for name, importance in (("equal", np.ones(2)), ("weighed", np.array([1e6, 1.0]))):
        levels = lloyd(rows, importance, 4, float(rows.min()), float(rows.max()))
        found[name] = error(rows[:, :1], TABLE.fake(rows[:, :1], table(levels, 4)), np.ones(1))
    assert found["weighed"] < found["equal"] / 2


@given(st.integers(2, 6), st.floats(-5, 5), st.floats(0.0, 3), st.integers(0, 2**31))
def test_levels_ascend_and_hold_zero(bits: int, centre: float, width: float, seed: int) -> None:
    rows = np.random.default_rng(seed).normal(centre, width, (64, 3)).astype(np.float32)
    levels = lloyd(rows, np.ones(3), bits, float(rows.min()), float(rows.max()))
    assert levels.shape == (2**bits,)
    assert (np.diff(levels) >= 0).all()
    assert (levels == 0).any()
    assert np.isfinite(levels).all()


def test_degenerate() -> None:
    assert not lloyd(np.zeros((4, 2), np.float32), np.ones(2), 4, 0.0, 0.0).any()
    constant = np.full((4, 2), 3.0, np.float32)
    params = table(lloyd(constant, np.ones(2), 3, 3.0, 3.0), 3)
    np.testing.assert_allclose(TABLE.fake(constant, params), constant, rtol=1e-2)


def test_widths() -> None:
    assert list(Lloyd.widths) == [2, 3, 4, 5, 6]
