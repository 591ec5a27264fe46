"""Histogram: bins that grow by powers of two, so no range need be known first and merging is exact."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64, NotFinite, Observed, Observer

LEAST_EXPONENT = -60
_CHUNK = 1 << 16


def exponent_of(magnitude: float) -> int:
    """Smallest e, at least LEAST_EXPONENT, with magnitude < 2^e."""
    return max(int(np.frexp(magnitude)[1]), LEAST_EXPONENT) if magnitude else LEAST_EXPONENT


class Histogram(Observed):
    """Counts of a tensor's values in ``bins`` equal bins over [-2^e, 2^e), with e as small as the values allow.

    For a larger value, pairs of bins around zero are merged: the counts equal those of one pass with the larger range,
    in any order. Values are assumed to be uniform within a bin.
    """

    def __init__(self, bins: int = 4096) -> None:
        self.bins = bins
        self.counts = np.zeros(bins, np.int64)
        self.exponent = LEAST_EXPONENT
        self.low, self.high, self.count = np.inf, -np.inf, 0

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""
        if not x.size:
            return
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise NotFinite
        self._widen(exponent_of(max(-low, high)))
        scale = 2.0 ** (self.bins.bit_length() - 2 - self.exponent)
        values = x.reshape(-1)
        for start in range(0, values.size, _CHUNK):
            # float64: a negative value whose product underflows would fall in the bin above zero
            place = np.floor(values[start : start + _CHUNK] * np.float64(scale)).astype(np.int64) + self.bins // 2
            self.counts += np.bincount(place, minlength=self.bins)
        self._extend(low, high, values.size)

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in the output of op ``Histogram``: counts, and low, high, exponent, count, number of bad values."""
        low, high, exponent, count, bad = (float(v) for v in outputs[1])
        if bad:
            raise NotFinite
        if count:
            self._add(outputs[0], int(exponent))
            self._extend(low, high, int(count))

    def _extend(self, low: float, high: float, count: int) -> None:
        self.low, self.high, self.count = min(self.low, low), max(self.high, high), self.count + count

    def _widen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.counts, self.exponent = coarsened(self.counts, exponent - self.exponent), exponent

    def _add(self, counts: NDArray[np.int64], exponent: int) -> None:
        self._widen(exponent)
        self.counts = self.counts + coarsened(counts, self.exponent - exponent)

    def merge(self, other: Self) -> Self:
        """The exact histogram of both."""
        both = type(self)(self.bins)
        for one in (self, other):
            both._add(one.counts, one.exponent)
            both._extend(one.low, one.high, one.count)
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"counts": self.counts, "meta": np.array([self.low, self.high, self.exponent, self.count])}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.counts = np.array(arrays["counts"])
        low, high, exponent, count = (float(v) for v in arrays["meta"])
        self.low, self.high, self.exponent, self.count = low, high, int(exponent), int(count)

    def kind(self) -> Hashable:
        """Type and number of bins."""
        return ("Histogram", self.bins)

    def observer(self) -> Observer | None:
        """Op ``Histogram``."""
        return Observer("Histogram", 2, {"bins": self.bins})

    @property
    def width(self) -> float:
        """Width of a bin."""
        return float(2.0 ** (self.exponent + 1) / self.bins)

    @property
    def edges(self) -> F64:
        """Edges of the bins."""
        return np.asarray((np.arange(self.bins + 1) - self.bins // 2) * self.width, np.float64)

    def quantile(self, share: float) -> float:
        """The value below which ``share`` of all values lie."""
        if not self.count:
            return 0.0
        below = np.concatenate([[0], np.cumsum(self.counts)])
        return float(np.clip(np.interp(share * self.count, below, self.edges), self.low, self.high))

    def points(self, per_bin: int = 4) -> tuple[F32, F64]:
        """Values and weights that represent all values seen: ``per_bin`` evenly spaced ones in each nonempty bin."""
        filled = np.flatnonzero(self.counts)
        inside = (np.arange(per_bin) + 0.5) / per_bin
        values = ((filled - self.bins // 2)[:, None] + inside) * self.width
        weights = np.repeat(self.counts[filled] / per_bin, per_bin)
        return np.clip(values.reshape(-1), self.low, self.high).astype(np.float32), weights

    def integrals(self, at: F64) -> tuple[F64, F64, F64]:
        """Number, sum and sum of squares of all values below each of ``at``."""
        width, half = self.width, self.bins // 2
        edges = (np.arange(self.bins + 1) - half) * width
        density = self.counts / width
        start = np.zeros((3, self.bins + 1))
        for power in range(3):
            whole = density * np.diff(edges ** (power + 1)) / (power + 1)
            np.cumsum(whole, out=start[power, 1:])
        to = np.clip(at, edges[0], edges[-1])
        place = np.minimum(np.floor(to / width).astype(np.int64) + half, self.bins - 1)
        origin = edges[place]
        number, total, squares = (
            start[power][place] + density[place] * (to ** (power + 1) - origin ** (power + 1)) / (power + 1)
            for power in range(3)
        )
        return number, total, squares


def coarsened(counts: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    """Counts over a range 2^shift times as wide."""
    for _ in range(min(shift, counts.size.bit_length())):
        half = counts.size // 2
        wider = np.zeros_like(counts)
        wider[half // 2 : half // 2 + half] = counts.reshape(half, 2).sum(axis=1)
        counts = wider
    return counts
