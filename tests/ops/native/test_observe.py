"""Domain onnxptq.calib against NumPy; the same bytes for every number of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Array = NDArray[Any]
CALIB = {"domain": "onnxptq.calib"}


def stats(x: Array) -> Array:
    good = x[np.isfinite(x)].astype(np.float64)
    low, high = (good.min(), good.max()) if good.size else (np.inf, -np.inf)
    return np.array([low, high, good.sum(), (good * good).sum(), x.size - good.size])


def with_bad(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    x = rng.normal(size=shape).astype(np.float32)
    x[rng.random(shape) < 0.01] = np.nan
    x[rng.random(shape) < 0.01] = -np.inf
    return x


@pytest.mark.parametrize("bad", [False, True])
@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (70, 33), (3, 40, 50), (2, 600, 333)])
def test_range(run: Any, isa: str, rng: np.random.Generator, shape: tuple[int, ...], bad: bool) -> None:
    x = np.asarray(with_bad(rng, shape) if bad and shape else rng.normal(size=shape), np.float32)
    np.testing.assert_allclose(run("Range", x, **CALIB), stats(x), rtol=1e-12, atol=1e-9)
    for axis in range(-x.ndim, x.ndim):
        y = run("Range", x, axis=axis, per_channel=1, **CALIB)
        expected = [stats(c) for c in np.moveaxis(x, axis, 0)]
        np.testing.assert_allclose(y, np.reshape(expected, (x.shape[axis], 5)), rtol=1e-12, atol=1e-9)


def histogram(x: Array, bins: int) -> tuple[Array, Array]:
    good = x[np.isfinite(x)].astype(np.float64)
    top = np.abs(good).max(initial=0)
    e = max(int(np.floor(np.log2(top))) + 1, -60) if top else -60
    counts = np.bincount(np.floor(good * (bins // 2 / 2.0**e)).astype(int) + bins // 2, minlength=bins)
    low, high = (good.min(), good.max()) if good.size else (np.inf, -np.inf)
    return counts, np.array([low, high, e, good.size, x.size - good.size])


@pytest.mark.parametrize("bins", [2, 256, 2048])
@pytest.mark.parametrize("shape", [(0,), (1,), (7, 11), (3, 40, 50), (40, 9000)])
def test_histogram(run: Any, isa: str, rng: np.random.Generator, shape: tuple[int, ...], bins: int) -> None:
    x = with_bad(rng, shape) * np.exp(rng.normal(size=shape) * 4).astype(np.float32)
    if x.size > 1000:
        x.ravel()[: x.size // 2] *= np.float32(1e-6)  # the range grows on the way
        x.ravel()[:20] = np.array([1e-42, -1e-42, -1e-30, 0.0, -0.0] * 4, np.float32)
    counts, meta = run("Histogram", x, bins=bins, outputs=2, **CALIB)
    expected = histogram(x, bins)
    np.testing.assert_array_equal(counts, expected[0])
    np.testing.assert_array_equal(meta, expected[1])


def test_histogram_of_extremes(run: Any, isa: str) -> None:
    for x in ([3.4e38, -1e-45], [0.0, -0.0], [np.nan], [1e-44, -1e-44], [1.0, -1.0], [np.inf, 2.0]):
        a = np.array(x, np.float32)
        counts, meta = run("Histogram", a, outputs=2, **CALIB)
        expected = histogram(a, 2048)
        np.testing.assert_array_equal(counts, expected[0])
        np.testing.assert_array_equal(meta, expected[1])


def test_sample_rows(run: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(9, 41, 6)).astype(np.float32)
    flat = x.reshape(-1, 6)
    y = run("SampleRows", x, rows=20, seed=5, **CALIB)
    rows = [int(np.flatnonzero((flat == row).all(1))[0]) for row in y]
    edges = [i * len(flat) // 20 for i in range(21)]
    assert all(edges[i] <= row < edges[i + 1] for i, row in enumerate(rows))
    assert rows != [
        int(np.flatnonzero((flat == row).all(1))[0]) for row in run("SampleRows", x, rows=20, seed=6, **CALIB)
    ]
    np.testing.assert_array_equal(run("SampleRows", x, rows=1000, seed=5, **CALIB), flat)
    assert run("SampleRows", x[:0], rows=4, seed=1, **CALIB).shape == (0, 6)


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("Range", {}),
        ("Range", {"per_channel": 1, "axis": 1}),
        ("Range", {"per_channel": 1}),
        ("Histogram", {"outputs": 2}),
    ],
)
def test_threads_do_not_change_bytes(run: Any, rng: np.random.Generator, op: str, options: dict[str, Any]) -> None:
    x = with_bad(rng, (50, 60, 100))
    one, two = (run(op, x, threads=t, **options, **CALIB) for t in (1, 2))
    np.testing.assert_equal(one, two)


def test_bad_attributes_are_sentences(run: Any) -> None:
    x = np.ones((2, 3), np.float32)
    with pytest.raises(Exception, match="bins = 100; it must be a power of two"):
        run("Histogram", x, bins=100, outputs=2, **CALIB)
    with pytest.raises(Exception, match=r"axis = 2 is outside of x \[2, 3\]"):
        run("Range", x, axis=2, per_channel=1, **CALIB)
    with pytest.raises(Exception, match="rows is missing"):
        run("SampleRows", x, **CALIB)
