"""Bimodality of a tensor's values: a kernel density on 128 points, its peaks, and the statistic that collects them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, NotFinite

F64 = NDArray[np.float64]
POINTS = 128
DISTANCE = 32
HEIGHT = 0.01
BINS = 2**20


def density(values: NDArray[Any]) -> tuple[float, float, F64]:
    """Lowest and highest value, and the Gaussian kernel density on POINTS points between them.

    The bandwidth is Scott's, n^(-1/5) times the sample deviation, with n the number of values. Values are binned at
    1/64 of the bandwidth, with one kernel per bin at its mean; this changes the density by 1e-5 of itself. The density
    is all zeros if all values are equal.
    """
    x = np.asarray(values, np.float64).reshape(-1)
    if not x.size:
        return 0.0, 0.0, np.zeros(POINTS)
    low, high = float(x.min()), float(x.max())
    width = float(np.std(x, ddof=1)) * x.size ** (-1 / 5) if x.size > 1 else 0.0
    if not width > 0 or not np.isfinite(high - low):
        return low, high, np.zeros(POINTS)
    bins = int(np.clip(64 * (high - low) / width, POINTS, BINS))
    place = np.minimum(((x - low) * (bins / (high - low))).astype(np.int64), bins - 1)
    counts, sums = np.bincount(place), np.bincount(place, weights=x)
    filled = np.flatnonzero(counts)
    counts, centres = counts[filled], sums[filled] / counts[filled]
    y = np.array([np.exp(-0.5 * ((point - centres) / width) ** 2) @ counts for point in np.linspace(low, high, POINTS)])
    return low, high, y / (x.size * width * np.sqrt(2 * np.pi))


def peaks(y: F64, *, height: float = HEIGHT, distance: int = DISTANCE) -> NDArray[np.int64]:
    """Peaks of the density: interior maxima of at least ``height`` of its sum, ``distance`` or more from taller peaks.

    A plateau counts at its middle, the ends never. Of two peaks that are too close the lower is dropped, starting from
    the tallest.
    """
    found = _maxima(y)
    found = found[y[found] >= height * y.sum()]
    kept = np.ones(len(found), bool)
    for place in np.argsort(y[found], kind="stable")[::-1]:
        if kept[place]:
            kept &= np.abs(found - found[place]) >= distance
            kept[place] = True
    result: NDArray[np.int64] = found[kept]
    return result


def _maxima(y: F64) -> NDArray[np.int64]:
    """Middles of runs of equal values that are higher than both neighbours."""
    starts = np.flatnonzero(np.r_[True, y[1:] != y[:-1]])
    ends = np.r_[starts[1:], len(y)] - 1
    heights = y[starts]
    inner = np.flatnonzero((heights[1:-1] > heights[:-2]) & (heights[1:-1] > heights[2:])) + 1
    middles: NDArray[np.int64] = (starts[inner] + ends[inner]) // 2
    return middles


class Densities:
    """For each of the first ``images`` samples: the density of the chosen channels, and each channel's mean.

    ``prompt``: use the first entry of the leading axis alone (the first prompt of an image) for the density.
    """

    def __init__(self, images: int, channels: NDArray[np.int64], *, prompt: bool) -> None:
        self.images = images
        self.channels = channels
        self.prompt = prompt
        self.ranges = np.zeros((0, 2))
        self.curves = np.zeros((0, POINTS))
        self.means = np.zeros((0, len(channels)))

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""
        if len(self.curves) >= self.images or x.size == 0:
            return
        if not np.isfinite(x).all():
            raise NotFinite
        low, high, curve = density((x[0] if self.prompt and x.ndim > 2 else x)[..., self.channels])
        mean = x.reshape(-1, x.shape[-1])[:, self.channels].mean(axis=0, dtype=np.float64)
        self._append(np.array([[low, high]]), curve[None], mean[None])

    def merge(self, other: Densities) -> Densities:
        """The densities of both, this one's first."""
        both = Densities(self.images, self.channels, prompt=self.prompt)
        both._append(self.ranges, self.curves, self.means)
        both._append(other.ranges, other.curves, other.means)
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state, for the checkpoint."""
        return {"ranges": self.ranges, "curves": self.curves, "means": self.means}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.ranges, self.curves, self.means = (np.array(arrays[key]) for key in ("ranges", "curves", "means"))

    def _append(self, ranges: F64, curves: F64, means: F64) -> None:
        self.ranges = np.concatenate([self.ranges, ranges])[: self.images]
        self.curves = np.concatenate([self.curves, curves])[: self.images]
        self.means = np.concatenate([self.means, means])[: self.images]
