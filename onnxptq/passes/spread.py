"""Spread: per channel, where the values lie; the statistic of the passes that centre and balance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.summary import F32

F64 = NDArray[np.float64]
ROWS = 1024
"""Tokens of a sample that quantiles are taken from; means are taken from all."""


class Spread:
    """Means over the samples of each channel's quantiles, mean and mean square, for chosen channels of the last axis.

    A sample counts once, however many tokens it has. Robust where a histogram of few bins is not: a channel far from
    zero keeps its full resolution. Tokens with a value that is not finite are left out.
    """

    def __init__(self, quantile: float, channels: NDArray[np.int64] | None = None) -> None:
        self.quantile = quantile
        self.channels = channels
        self.samples = 0
        self.sums = np.zeros((4, 0 if channels is None else len(channels)))

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""
        rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
        if self.channels is not None:
            rows = rows[:, self.channels]
        rows = rows[np.isfinite(rows).all(axis=1)]
        if not len(rows):
            return
        low, high = np.quantile(rows[_spread_out(len(rows))], (self.quantile, 1 - self.quantile), axis=0)
        mean = rows.mean(axis=0, dtype=np.float64)
        square = np.einsum("nc,nc->c", rows, rows, dtype=np.float64) / len(rows)
        self._add(1, np.stack([low, high, mean, square]).astype(np.float64))

    def merge(self, other: Spread) -> Spread:
        """The spread over the samples of both."""
        both = Spread(self.quantile, self.channels)
        for one in (self, other):
            if one.samples:
                both._add(one.samples, one.sums)
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state, for the checkpoint."""
        return {"samples": np.array(self.samples), "sums": self.sums}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.samples, self.sums = int(arrays["samples"]), np.array(arrays["sums"])

    def _add(self, samples: int, sums: F64) -> None:
        self.sums = self.sums + sums if self.samples else sums.copy()
        self.samples += samples

    @property
    def low(self) -> F64:
        """Lower end of the robust range."""
        return self._mean(0)

    @property
    def high(self) -> F64:
        """Upper end of the robust range."""
        return self._mean(1)

    @property
    def middle(self) -> F64:
        """Middle of the robust range."""
        return (self.low + self.high) / 2

    @property
    def reach(self) -> F64:
        """Half the robust range."""
        return (self.high - self.low) / 2

    @property
    def extent(self) -> F64:
        """Largest magnitude in the robust range."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def mean(self) -> F64:
        """Mean."""
        return self._mean(2)

    @property
    def deviation(self) -> F64:
        """Standard deviation."""
        return np.sqrt(np.maximum(self._mean(3) - self.mean**2, 0))

    def _mean(self, row: int) -> F64:
        result: F64 = self.sums[row] / max(self.samples, 1)
        return result


def _spread_out(count: int) -> NDArray[np.int64]:
    """At most ROWS indices below ``count``, spread by the golden ratio, so that no image grid can be in step with them."""
    if count <= ROWS:
        return np.arange(count)
    return np.unique((np.arange(ROWS) * 0.6180339887498949 % 1 * count).astype(np.int64))
