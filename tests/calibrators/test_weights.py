"""Weight ranges: the fast grid search equals the full grid, on every width and on weights of every kind."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from onnxptq.calibrators.search.rounding import search_weight
from onnxptq.errors import InputError
from onnxptq.ops import schemes
from onnxptq.ops.uniform import UniformParams, affine

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def powered(w: F32, scale: F32, zero: NDArray[np.uint8], bits: int, power: float = 2.4) -> F64:
    """Sum of |w^ - w|^power of each row, in float64."""
    low = -zero.astype(np.float32)
    coded = np.clip(np.rint(w / scale), low, low + 2**bits - 1) * scale
    error: F64 = (np.abs(coded.astype(np.float64) - w) ** power).sum(axis=-1)
    return error


def full_grid(row: F32, bits: int) -> tuple[float, np.float32, int]:
    """Every one of the 100 x 2^bits candidates of one row."""
    last = 2**bits - 1
    extent = float(max(row.max(), 0)) - float(min(row.min(), 0))
    zeros = np.arange(last + 1, dtype=np.uint8)[:, None]
    best = (np.inf, np.float32(0), 0)
    for width in range(100, 0, -1):
        step = np.float32(extent * (width / 100) / last)
        errors = powered(row[None], step, zeros, bits)
        if errors.min() < best[0]:
            best = (float(errors.min()), step, int(errors.argmin()))
    return best


KINDS = {
    "normal": lambda rng: rng.standard_normal((6, 90)),
    "laplace": lambda rng: rng.laplace(size=(6, 90)),
    "skewed": lambda rng: rng.gamma(1.0, size=(6, 90)) - 0.3,
    "outliers": lambda rng: rng.standard_t(2, size=(6, 90)),
    "two modes": lambda rng: rng.normal(rng.choice([-3, 1], (6, 90)), 0.1),
    "one short row": lambda rng: rng.standard_normal((1, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_search_equals_the_full_grid(kind: str, bits: int) -> None:
    w = KINDS[kind](np.random.default_rng(bits)).astype(np.float32)
    found = search_weight(w, bits=bits, axis=0)
    errors = powered(w, found.scale, found.zero, bits)
    equal = 0
    for index, row in enumerate(w):
        error, scale, zero = full_grid(row, bits)
        assert errors[index] <= error * (1 + 1e-5)
        equal += scale == found.scale[index, 0] and zero == found.zero[index, 0]
    assert equal >= len(w) - 1  # two candidates may be as good as each other


@given(
    w=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.integers(1, 12)),
        elements=st.floats(-10, 10, width=32) | st.sampled_from([0.0, 1e-40, -1e-40, 1e-30, 1e30]),
    ),
    bits=st.sampled_from([2, 3, 4]),
    symmetric=st.booleans(),
)
def test_any_weight_gets_codes_at_least_as_good_as_its_extrema(w: F32, bits: int, symmetric: bool) -> None:
    best, plain = (search_weight(w, bits=bits, axis=0, symmetric=symmetric, method=m) for m in ("omse", "minmax"))
    assert np.isfinite(best.scale).all()
    assert (
        powered(w, best.scale, best.zero, bits) <= powered(w, plain.scale, plain.zero, bits) * (1 + 1e-5) + 1e-30
    ).all()
    if symmetric:
        assert (best.zero == 2 ** (bits - 1)).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_symmetric_and_one_sided_grids(bits: int) -> None:
    w = np.random.default_rng(0).standard_normal((4, 200)).astype(np.float32)
    for rows, zero, levels, symmetric in (
        (w, 2 ** (bits - 1), 2 ** (bits - 1) - 0.5, True),
        (np.abs(w), 0, 2**bits - 1, False),
        (-np.abs(w), 2**bits - 1, 2**bits - 1, False),
    ):
        found = search_weight(rows, bits=bits, axis=0, symmetric=symmetric)
        assert (found.zero == zero).all()
        reach = np.abs(rows).max(axis=1)
        zeros = np.full((4, 1), zero, np.uint8)
        errors = [
            powered(rows, (reach * i / 100 / levels).astype(np.float32)[:, None], zeros, bits) for i in range(1, 101)
        ]
        np.testing.assert_allclose(powered(rows, found.scale, found.zero, bits), np.min(errors, axis=0), rtol=1e-5)


@pytest.mark.parametrize("method", ["minmax", "percentile", "omse"])
@pytest.mark.parametrize(("axis", "shape"), [(1, (1, 5)), (0, (7, 1)), (None, ())])
def test_shapes_broadcast_against_the_weight(method: str, axis: int | None, shape: tuple[int, ...]) -> None:
    w = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    found = search_weight(w, bits=4, axis=axis, method=method)
    assert found.scale.shape == found.zero.shape == shape
    assert np.abs(schemes()["uniform"].fake(w, found) - w).max() < 1.5


def test_kernels_of_convolutions() -> None:
    w = np.random.default_rng(0).standard_normal((3, 2, 3, 3)).astype(np.float32)
    found = search_weight(w, bits=4, axis=0)
    flat = search_weight(w.reshape(3, -1), bits=4, axis=0)
    assert found.scale.shape == (3, 1, 1, 1)
    np.testing.assert_array_equal(found.scale.reshape(-1), flat.scale.reshape(-1))


def test_extrema_and_percentiles() -> None:
    w = np.random.default_rng(0).standard_t(2, size=(5000, 3)).astype(np.float32)
    plain = search_weight(w, bits=4, axis=1, method="minmax")
    expected = affine(w.min(axis=0), w.max(axis=0), 4)
    np.testing.assert_array_equal(plain.scale[0], expected.scale)
    np.testing.assert_array_equal(plain.zero[0], expected.zero)
    cut = search_weight(w, bits=4, axis=1, method="percentile")
    candidates = []
    for share in (0.99999, 0.9999, 0.999):
        one = affine(*np.quantile(w, [1 - share, share], axis=0), 4)
        candidates.append(powered(w.T, one.scale[:, None], one.zero[:, None], 4, 2.0))
    np.testing.assert_allclose(powered(w.T, cut.scale.T, cut.zero.T, 4, 2.0), np.min(candidates, axis=0), rtol=1e-6)


def test_threads_and_blocks_change_nothing() -> None:
    w = np.random.default_rng(0).standard_normal((600, 1024)).astype(np.float32)
    one, two = (search_weight(w, bits=6, axis=0, threads=n) for n in (1, 2))
    alone = search_weight(w[333:334], bits=6, axis=0)
    assert one.scale.tobytes() == two.scale.tobytes()
    assert one.zero.tobytes() == two.zero.tobytes()
    assert alone.scale[0] == one.scale[333]


@pytest.mark.parametrize("method", ["minmax", "percentile", "omse"])
def test_weights_without_extent(method: str) -> None:
    for w in (np.zeros((2, 3), np.float32), np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32)):
        found = search_weight(w, bits=4, axis=0, method=method)
        assert isinstance(found, UniformParams)
        assert found.scale.shape == (len(w), 1)
        assert not schemes()["uniform"].fake(w, found).any()
    constant = np.full((1, 4), -0.37, np.float32)
    found = search_weight(constant, bits=3, axis=0, method=method)
    np.testing.assert_allclose(schemes()["uniform"].fake(constant, found), constant, rtol=1e-6)


def test_what_cannot_be_searched() -> None:
    with pytest.raises(InputError, match="holds NaN or infinity"):
        search_weight(np.array([[np.nan]], np.float32), bits=4, axis=0)
    with pytest.raises(InputError, match="weight calibrator 'magic': use one of minmax, percentile, omse"):
        search_weight(np.ones((2, 2), np.float32), bits=4, axis=0, method="magic")
