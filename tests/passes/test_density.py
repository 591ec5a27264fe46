"""The density, its peaks and the bimodality rule: against scipy, and on distributions of known modes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import find_peaks
from scipy.stats import gaussian_kde

from onnxptq.calibration.statistics.base import NotFinite
from onnxptq.passes.density import POINTS, Densities, density, peaks

RNG = np.random.default_rng


def two(n: int, spread: float = 2.0, seed: int = 0) -> np.ndarray:
    rng = RNG(seed)
    return rng.normal(size=n) * spread + np.where(rng.random(n) < 0.5, -8, 8)


@given(
    n=st.integers(3, 3000),
    seed=st.integers(0, 999),
    shape=st.sampled_from(["normal", "two", "outlier", "skewed"]),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_density_is_scipys(n: int, seed: int, shape: str, scale: float) -> None:
    rng = RNG(seed)
    x = {
        "normal": rng.normal(size=n),
        "two": two(n, seed=seed),
        "outlier": rng.normal(size=n),
        "skewed": rng.exponential(size=n) + 5,
    }[shape]
    if shape == "outlier":
        x[0] = 60
    x = x * scale
    low, high, y = density(x)
    expected = gaussian_kde(x)(np.linspace(x.min(), x.max(), POINTS))
    assert (low, high) == (x.min(), x.max())
    assert np.abs(y - expected).max() < 2e-5 * expected.max()


@given(
    y=st.lists(st.integers(0, 6), min_size=3, max_size=128).map(lambda v: np.array(v, float)),
    distance=st.integers(1, 40),
    height=st.sampled_from([0.0, 0.01, 0.1]),
)
def test_peaks_are_scipys_plateaus_included(y: np.ndarray, distance: int, height: float) -> None:
    # Which of two equally high peaks stays is not said by scipy (its sort is unstable): make heights unique, plateaus
    # kept.
    starts = np.flatnonzero(np.r_[True, y[1:] != y[:-1]])
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(y)]))
    y = y + run * 1e-6
    expected = find_peaks(y, height=height * y.sum(), distance=distance)[0]
    assert peaks(y, height=height, distance=distance).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("name", "values", "count"),
    [
        *[(f"two modes of {n}", two(n), 2) for n in (1800, 10_000, 100_000)],
        ("normal", RNG(1).normal(size=100_000), 1),
        ("laplace", RNG(1).laplace(size=100_000), 1),
        ("uniform", RNG(1).uniform(size=100_000), None),
        ("three equal", RNG(1).normal(size=90_000) + np.repeat([-16, 0, 16], 30_000), 3),
        ("small middle", RNG(1).normal(size=90_000) * 1.5 + np.repeat([-8, 0, 8], [42_000, 6_000, 42_000]), 2),
        ("one value at 40", np.r_[two(20_000, 1.0), 40], 2),
        ("one value at 60", np.r_[two(20_000, 1.0), 60], 1),
        ("constant", np.full(100, 3.0), 0),
        ("one number", np.array([3.0]), 0),
        ("nothing", np.array([]), 0),
    ],
)
def test_verdicts(name: str, values: np.ndarray, count: int | None) -> None:
    found = len(peaks(density(values)[2]))
    assert found == count if count is not None else found != 2


def test_full_size_of_a_real_decoder_is_quick_and_exact() -> None:
    values = two(4096 * 128).astype(np.float32)
    low, high, y = density(values)
    grid = np.linspace(low, high, POINTS)[::16]
    width = np.std(values.astype(float), ddof=1) * values.size ** (-1 / 5)
    exact = [
        np.exp(-0.5 * ((g - values.astype(float)) / width) ** 2).sum() / (values.size * width * np.sqrt(2 * np.pi))
        for g in grid
    ]
    assert np.abs(y[::16] - exact).max() < 2e-5 * max(exact)


def test_first_prompt_first_images_chosen_channels() -> None:
    rng = RNG(0)
    samples = [rng.normal(size=(2, 30, 4)).astype(np.float32) for _ in range(3)]
    samples[0][1] += 1000
    seen = Densities(2, np.array([1, 3]), prompt=True)
    for sample in samples:
        seen.update(sample)
    assert seen.curves.shape == (2, POINTS)
    assert np.allclose(seen.ranges[0], [samples[0][0][:, [1, 3]].min(), samples[0][0][:, [1, 3]].max()])
    assert np.allclose(seen.means[0], samples[0][..., [1, 3]].mean(axis=(0, 1)), rtol=1e-5)
    whole = Densities(1, np.array([1, 3]), prompt=False)
    whole.update(samples[0])
    assert whole.ranges[0, 1] > 900


@given(parts=st.lists(st.integers(0, 3), min_size=3, max_size=3), images=st.integers(1, 4))
def test_merge_keeps_the_first(parts: list[int], images: int) -> None:
    rng = RNG(0)
    whole, shards = Densities(images, np.arange(3), prompt=False), []
    for count in parts:
        shards.append(Densities(images, np.arange(3), prompt=False))
        for _ in range(count):
            x = rng.normal(size=(9, 3)).astype(np.float32)
            whole.update(x)
            shards[-1].update(x)
    a, b, c = shards
    again = Densities(images, np.arange(3), prompt=False)
    again.load(whole.arrays())
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), again):
        for key, value in whole.arrays().items():
            assert np.array_equal(merged.arrays()[key], value)


def test_numbers_that_are_none() -> None:
    with pytest.raises(NotFinite):
        Densities(1, np.arange(2), prompt=False).update(np.array([[1, np.nan]], np.float32))
    seen = Densities(1, np.arange(2), prompt=True)
    seen.update(np.zeros((0, 4, 2), np.float32))
    assert len(seen.curves) == 0
