"""Evenly spaced codes."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.uniform import SMALLEST, UniformParams, affine, symmetric

UNIFORM = schemes()["uniform"]
ENDS = st.floats(-(2.0**99), 2.0**99, width=32)


@given(bits=st.integers(2, 8), a=ENDS, b=ENDS)
def test_affine_covers_its_range_and_zero(bits: int, a: float, b: float) -> None:
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    p = affine(min(a, b), max(a, b), bits)
    assert UNIFORM.fake(np.zeros(1, np.float32), p) == 0
    ends = np.array([low, high], np.float32)
    half_step = 0.5 * float(p.scale)
    assert (
        np.abs(UNIFORM.fake(ends, p).astype(np.float64) - ends) <= half_step * 1.001 + 1e-6 * (high - low) + SMALLEST
    ).all()


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_code_is_used(bits: int) -> None:
    x = np.linspace(-1.1, 1.1, 4001, dtype=np.float32)
    for p in (affine(-0.9, 1, bits), symmetric(1.0, bits), affine(-0.3, 1, bits)):
        assert np.unique(UNIFORM.encode(x, p)).size == 2**bits


def test_symmetric_has_zero_in_the_middle() -> None:
    p = symmetric([1.0, 4.0], 4)
    assert p.zero.tolist() == [8, 8]
    np.testing.assert_allclose(p.scale, [1 / 7.5, 4 / 7.5], rtol=1e-7)


def test_exact_ties_round_to_even() -> None:
    p = UniformParams(8, np.asarray(0.5), np.asarray(100))
    assert (UNIFORM.encode(np.array([0.25, 0.75, 1.25, -0.25, -0.75], np.float32), p).astype(int) - 100).tolist() == [
        0,
        2,
        2,
        0,
        -2,
    ]


def test_division_is_ieee_and_not_by_the_reciprocal() -> None:
    rng = np.random.default_rng(0)
    scale = np.float32(0.0073)
    x = ((rng.integers(0, 255, 200000) + 0.5) * np.float64(scale)).astype(np.float32)
    codes = UNIFORM.encode(x, UniformParams(8, np.asarray(scale), np.asarray(0)))
    exact = np.rint((x.astype(np.float64) / np.float64(scale)).astype(np.float32))
    assert (codes == np.clip(exact, 0, 255)).all()
    assert (np.rint(x * (np.float32(1) / scale)) != exact).any(), "this data would not tell the two apart"


def test_parameters_broadcast() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    for shape in ((), (5,), (3, 1), (2, 1, 1), (2, 3, 1), (1, 3, 5)):
        p = affine(np.full(shape, -2.0), np.full(shape, 2.0), 5)
        np.testing.assert_array_equal(UNIFORM.fake(x, p), UNIFORM.fake(x, affine(-2.0, 2.0, 5)))


def test_any_granularity_runs(run: Any) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(2, 3, 4)) * 3, np.full((2, 3, 1), np.nan)], -1).astype(np.float32)
    for bits, shape in product((2, 5, 8), ((), (1,), (5,), (3, 1), (2, 1, 1), (2, 3, 1), (1, 3, 5), (2, 3, 5))):
        p = affine(rng.uniform(-3, 0, shape), rng.uniform(0, 3, shape), bits)
        codes = run("UniformQuantizeLinear", x, p.scale, p.zero, bits=bits)
        np.testing.assert_array_equal(codes, UNIFORM.encode(x, p))
        np.testing.assert_array_equal(
            run("UniformDequantizeLinear", codes, p.scale, p.zero, bits=bits), UNIFORM.fake(x, p)
        )
        assert (codes[..., -1] == 0).all()


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="positive"):
        UniformParams(4, np.asarray(0.0), np.asarray(0))
    with pytest.raises(InputError, match="fit 4 bits"):
        UniformParams(4, np.asarray(1.0), np.asarray(16))
    with pytest.raises(InputError, match="zero holds a value"):
        UniformParams(4, np.asarray(1.0), np.asarray(1.5))


def test_grid_shrinks_both_ends_and_leaves_an_empty_side_empty() -> None:
    assert len(list(UNIFORM.grid(-1.0, 2.0, 4))) == 100
    assert all(p.zero == 0 for p in UNIFORM.grid(0.0, 2.0, 4))
    assert all(p.zero == 15 for p in UNIFORM.grid(-2.0, 0.0, 4))
    last = list(UNIFORM.grid(-1.0, 2.0, 4))[-1]
    assert last == affine(-1.0, 2.0, 4)
