"""Every statistic: merges are associative and commutative, the state survives a round trip, the numbers are right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import NotFinite, Observed, Several
from onnxptq.calibration.statistics.histogram import LEAST_EXPONENT, Histogram, exponent_of
from onnxptq.calibration.statistics.ranges import AverageRange, Moments, Range
from onnxptq.calibration.statistics.rows import RowSample, Whole

MAKERS: dict[str, Callable[[], Observed]] = {
    "range": Range,
    "range of channels": functools.partial(Range, -1),
    "range of heads": functools.partial(Range, -3, 2),
    "moments": Moments,
    "moments of channels": functools.partial(Moments, 1),
    "average": AverageRange,
    "average of channels": functools.partial(AverageRange, (-3, -1), 2),
    "histogram": functools.partial(Histogram, 16),
    "rows": functools.partial(RowSample, 3),
    "rows of channels and heads": functools.partial(RowSample, 3, (-3, -1), 2),
    "several": lambda: Several(Range(), Histogram(8), RowSample(2)),
}
APPROXIMATE = {"moments", "moments of channels", "average", "average of channels"}
ODD = np.array([0.0, -0.0, 1e-42, -1e-42, 1.0, -1.0, 1024.0, 3e38], np.float32)
VALUES = st.floats(-1e6, 1e6, width=32) | st.sampled_from(ODD.tolist())
TENSORS = st.integers(0, 3).flatmap(lambda n: hnp.arrays(np.float32, (2 * n, 3, 4), elements=VALUES))


def filled(make: Callable[[], Observed], tensors: list[NDArray[np.float32]]) -> Observed:
    statistic = make()
    for x in tensors:
        statistic.update(x)
    return statistic


def same(a: Observed, b: Observed, *, exactly: bool) -> None:
    left, right = a.arrays(), b.arrays()
    assert left.keys() == right.keys()
    for key, array in left.items():
        if exactly:
            np.testing.assert_array_equal(array, right[key])
        else:
            np.testing.assert_allclose(array, right[key], rtol=1e-9, atol=1e-6 * (1 + np.abs(array).max(initial=0)))


@pytest.mark.parametrize("name", MAKERS)
@given(parts=st.lists(st.lists(TENSORS, max_size=2), min_size=3, max_size=3))
def test_merge_is_associative_and_free_of_order(name: str, parts: list[list[NDArray[np.float32]]]) -> None:
    make, exactly = MAKERS[name], name not in APPROXIMATE
    a, b, c = (filled(make, part) for part in parts)
    whole = filled(make, [x for part in parts for x in part])
    same(a.merge(b).merge(c), whole, exactly=exactly)
    same(a.merge(b.merge(c)), whole, exactly=exactly)
    same(c.merge(a).merge(b), whole, exactly=exactly)
    same(make().merge(whole), whole, exactly=True)


@pytest.mark.parametrize("name", MAKERS)
@given(tensors=st.lists(TENSORS, max_size=3), more=TENSORS)
def test_merging_one_sample_is_folding_it_to_the_bit(
    name: str, tensors: list[NDArray[np.float32]], more: NDArray[np.float32]
) -> None:
    """What workers return is merged, in the order of the samples."""
    merged = filled(MAKERS[name], tensors).merge(filled(MAKERS[name], [more]))
    same(merged, filled(MAKERS[name], [*tensors, more]), exactly=True)


@pytest.mark.parametrize("name", MAKERS)
@given(tensors=st.lists(TENSORS, max_size=3), more=TENSORS)
def test_a_loaded_state_goes_on_like_the_original(
    name: str, tensors: list[NDArray[np.float32]], more: NDArray[np.float32]
) -> None:
    original = filled(MAKERS[name], tensors)
    copy = MAKERS[name]()
    copy.load({key: array.copy() for key, array in original.arrays().items()})
    same(copy, original, exactly=True)
    copy.update(more)
    original.update(more)
    same(copy, original, exactly=True)


@pytest.mark.parametrize("name", [n for n in MAKERS if not n.startswith("rows")])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    x = np.ones((2, 3, 4), np.float32)
    x[1, 2, 3] = bad
    with pytest.raises(NotFinite):
        MAKERS[name]().update(x)


def test_range_and_moments_say_what_numpy_says() -> None:
    rng = np.random.default_rng(0)
    tensors = [rng.standard_normal((2 * n, 3, 4)).astype(np.float32) for n in (1, 3)]
    rows = np.concatenate([x.reshape(-1, 4) for x in tensors]).astype(np.float64)
    seen = Moments(-1)
    for x in tensors:
        seen.update(x)
    np.testing.assert_array_equal(seen.low, rows.min(axis=0))
    np.testing.assert_array_equal(seen.high, rows.max(axis=0))
    np.testing.assert_allclose(seen.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(seen.variance, rows.var(axis=0), rtol=1e-9)
    assert seen.count == len(rows)
    assert seen.rank == 3


def test_heads_folded_into_the_batch_are_told_apart() -> None:
    x = np.arange(6 * 2 * 3, dtype=np.float32).reshape(6, 2, 3)  # batch 2, heads 3
    seen = Range((-3, -1), 3)
    seen.update(x)
    apart = x.reshape(2, 3, 2, 3)
    np.testing.assert_array_equal(seen.high, apart.max(axis=(0, 2)).reshape(-1))
    unfolded = Range((-3, -1), 3)
    unfolded.update(apart)
    np.testing.assert_array_equal(unfolded.high, seen.high)


def test_average_range_is_the_mean_of_the_samples_extrema() -> None:
    seen = AverageRange()
    for low, high in ((-1, 2), (-3, 10), (0, 0)):
        seen.update(np.array([low, high], np.float32))
    assert (float(seen.low), float(seen.high)) == (-4 / 3, 4.0)


@given(x=hnp.arrays(np.float32, st.integers(1, 50), elements=VALUES))
def test_histogram_counts_what_numpy_counts(x: NDArray[np.float32]) -> None:
    seen = Histogram(16)
    seen.update(x)
    reach = 2.0**seen.exponent
    peak = float(np.abs(x).max())
    assert peak < reach
    assert seen.exponent == LEAST_EXPONENT or peak >= reach / 2
    expected = np.zeros(16, np.int64)
    for value in x.astype(np.float64):
        expected[int(np.floor(value / reach * 8)) + 8] += 1
    np.testing.assert_array_equal(seen.counts, expected)
    assert seen.count == x.size


def test_exponents() -> None:
    assert [exponent_of(m) for m in (0.0, 1e-30, 0.5, 0.75, 1.0, 2.0)] == [-60, -60, 0, 0, 1, 2]


def test_quantiles_and_integrals_are_right_to_a_bin() -> None:
    x = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    seen = Histogram(4096)
    seen.update(x)
    for share in (0.0, 0.001, 0.3, 0.5, 0.999, 1.0):
        assert seen.quantile(share) == pytest.approx(np.quantile(x, share), abs=seen.width)
    at = np.array([-9.0, -0.7, 0.0, 1.3, 9.0])
    number, total, squares = seen.integrals(at)
    for index, bound in enumerate(at):
        below = x[x < bound].astype(np.float64)
        assert number[index] == pytest.approx(below.size, abs=200)
        assert total[index] == pytest.approx(below.sum(), abs=300)
        assert squares[index] == pytest.approx(np.square(below).sum(), abs=400)
    values, weights = seen.points()
    assert weights.sum() == pytest.approx(x.size)
    assert values @ weights / x.size == pytest.approx(x.mean(), abs=seen.width)


def test_rows_are_rows_of_the_tensor_and_bounded() -> None:
    x = np.random.default_rng(0).standard_normal((40, 5, 3)).astype(np.float32)
    seen = RowSample(8)
    seen.update(x)
    assert seen.sample.shape == (8, 3)
    assert seen.seen == 200
    held = {row.tobytes() for row in x.reshape(-1, 3)}
    assert all(row.tobytes() in held for row in seen.sample)
    assert len({row.tobytes() for row in seen.sample}) == 8


def test_shorter_rows_end_in_zeros() -> None:
    """Which rows are kept depends on what they hold, not on the order in which lengths come."""
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((2, 20, n)).astype(np.float32) for n in (3, 5, 4)]

    def filled(order: Sequence[int]) -> RowSample:
        seen = RowSample(30)
        for i in order:
            seen.update(parts[i])
        return seen

    one, other = filled([0, 1, 2]), filled([2, 0, 1])
    assert one.sample.shape == (30, 5)
    np.testing.assert_array_equal(one.sample, other.sample)
    np.testing.assert_array_equal(one.sample, filled([1]).merge(filled([2, 0])).sample)
    held = {row.tobytes() for x in parts for row in np.pad(x.reshape(40, -1), ((0, 0), (0, 5 - x.shape[2])))}
    assert all(row.tobytes() in held for row in one.sample)
    assert {int((row != 0).sum()) for row in one.sample} == {3, 4, 5}


def test_rows_of_a_convolution_are_pixels() -> None:
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 2)).astype(np.float32)
    seen = RowSample(100, 1)
    seen.update(x)
    assert sorted(map(tuple, seen.sample)) == sorted(map(tuple, x[0].reshape(3, 4).T))


def test_whole_keeps_the_tensor() -> None:
    seen: Any = Whole()
    seen.update(np.ones((2, 2), np.float32))
    np.testing.assert_array_equal(Whole().merge(seen).value, np.ones((2, 2)))
