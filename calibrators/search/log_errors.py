"""Errors of an attention's output under log-base codes of its weights, for a whole grid of codes at once.

All edges and values of the codes on the grid are powers of 2^(1/24). So one sum of the values v per power, over the
keys whose weight lies above it, is enough to compute the output of every code: each output is a weighted sum of these
sums.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64, NotFinite
from onnxptq.calibration.statistics.rows import AttentionRows
from onnxptq.calibrators.search.objectives import few_digits

I64 = NDArray[np.int64]
FINE = 24
"""Powers an octave; edges lie half a step of a code away from its values, so FINE / tau must be an even number."""
COARSE = 2
"""Every second power is tried as the largest value: 12 an octave."""
POWERS = FINE * 24
"""Weights below 2^-24 count as zero: float32 sums of 1 lose them too."""
REACH = 0.01
"""Lower end of the search for the largest value, as a share of the largest weight (PTQ4SAM)."""
POOL = 8
"""Rows are chosen from so many times as many: rows with the largest weights decide where codes saturate, and are
rare."""
_BLOCK = 1 << 19
"""Numbers held at a time."""


def scales() -> F64:
    """The largest values on the grid."""
    return np.asarray(np.exp2(-np.arange(0, POWERS, COARSE) / FINE), np.float64)


class OutputErrors(AttentionRows):
    """Mean of |Q(P) v - P v|^exponent over sampled rows, averaged over samples, for each tau and largest value of the
    grid.

    Rows of P meet the values of their own head and window. Each sample gives 8 ``rows`` evenly spaced rows, of which
    ``rows`` are measured: the half of them with the largest weights, and others evenly spaced by largest weight, which
    stand for their neighbours. The last of Q's 2^bits codes is zero.
    """

    def __init__(self, bits: int, taus: Sequence[float], exponent: float, rows: int, seed: int = 0) -> None:
        self.bits, self.taus, self.exponent, self.rows, self.seed = bits, tuple(taus), exponent, rows, seed
        self.taken = POOL * rows
        self.errors = np.zeros((len(self.taus), len(scales())))
        self.high, self.samples = 0.0, 0

    def _add(self, rows: F32, shape: tuple[int, ...], *partners: F32) -> None:
        (v,), lead = partners, shape[:-2]
        picked, weights = pick(rows.max(axis=1), self.rows)
        heads, owner = np.unique(self._chosen(shape)[picked] // shape[-2], return_inverse=True)
        v = np.broadcast_to(v, (*lead, *v.shape[-2:]))[np.unravel_index(heads, lead)] if lead else v[None]
        if not (np.isfinite(rows).all() and np.isfinite(v).all()):
            raise NotFinite
        # within [-1, 1] no power of an error underflows, whatever the unit of v
        exponent = int(np.frexp(np.abs(v).max(initial=0))[1])
        v, high = np.ldexp(v, -exponent), float(rows.max())
        tried = np.flatnonzero(scales() >= REACH * high)
        total, rows = np.zeros((len(self.taus), len(tried))), rows[picked]
        step = max(_BLOCK // (max(POWERS, rows.shape[1]) * max(v.shape[2], 1)), 1)
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            total += self._block(rows[part], v[owner[part]], weights[part], tried)
        self.errors[:, tried] += total / max(weights.sum() * v.shape[2], 1) * 2.0 ** (exponent * self.exponent)
        self.errors[:, len(tried) :] = np.inf
        self.high, self.samples = max(self.high, high), self.samples + 1

    def _block(self, rows: F32, v: F32, weights: F64, tried: I64) -> F64:
        """Weighted sums of errors [taus, tried] over rows [n, keys] with their values [n, keys, d]."""
        above, wanted = sums_above(rows, v), (rows[:, None] @ v).reshape(-1)
        found = np.empty((len(self.taus), len(tried)))
        for i, tau in enumerate(self.taus):
            change = np.abs(outputs_of(above, tau, self.bits, tried * COARSE) - wanted)
            found[i] = (change ** np.float32(self.exponent)).reshape(len(tried), len(rows), -1).sum(
                axis=2, dtype=np.float64
            ) @ weights
        return found

    def best(self) -> tuple[float, float]:
        """The tau and the largest value of least error; ties go to the smaller tau, then to the larger value."""
        grid = scales()
        inside = (grid <= self.high) & (grid >= REACH * self.high)
        if not inside.any():
            return self.taus[0], 1.0
        errors = few_digits(self.errors[:, inside])
        tau, place = np.unravel_index(errors.argmin(), errors.shape)
        return self.taus[int(tau)], float(grid[inside][place])

    def merge(self, other: Self) -> Self:
        """The errors of both."""
        both = type(self)(self.bits, self.taus, self.exponent, self.rows, self.seed)
        both.errors, both.high, both.samples = (
            self.errors + other.errors,
            max(self.high, other.high),
            self.samples + other.samples,
        )
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"errors": self.errors, "meta": np.array([self.high, self.samples])}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.errors, self.high, self.samples = (
            np.array(arrays["errors"]),
            float(arrays["meta"][0]),
            int(arrays["meta"][1]),
        )

    def kind(self) -> Hashable:
        """Type and settings."""
        return (type(self).__name__, self.bits, self.taus, self.exponent, self.rows, self.seed)


def pick(peaks: F32, rows: int) -> tuple[I64, F64]:
    """Sampled row indices and their weights: the half with the largest peaks at weight 1, the others evenly spaced."""
    order, largest = np.argsort(-peaks, kind="stable"), rows - rows // 2
    if len(order) <= rows:
        return np.arange(len(order)), np.ones(len(order))
    edges = np.linspace(largest, len(order), rows // 2 + 1).astype(np.int64)
    places = np.concatenate([np.arange(largest), (edges[:-1] + edges[1:]) // 2])
    return order[places], np.concatenate([np.ones(largest), np.diff(edges)])


def sums_above(rows: F32, v: F32) -> F32:
    """[POWERS + 1, n * d]: the sums of v over the keys whose weight is greater than 2^(-e / FINE), for each e."""
    count, _, width = v.shape
    power = np.full(rows.shape, POWERS + 1, np.int64)
    seen = rows > 2.0 ** -(POWERS / FINE)
    power[seen] = np.maximum(np.floor(-FINE * np.log2(rows[seen])) + 1, 0)
    place = (power * count + np.arange(count)[:, None]).reshape(-1)
    order = np.argsort(place, kind="stable")
    filled, start = np.unique(place[order], return_index=True)
    sums = np.zeros(((POWERS + 2) * count, width), np.float32)
    sums[filled] = np.add.reduceat(v.reshape(-1, width)[order], start, axis=0)
    return _summed(sums.reshape(POWERS + 2, count * width)[:-1], 1)


def outputs_of(above: F32, tau: float, bits: int, tops: I64) -> F32:
    """[tops, n * d]: outputs of the rows of ``sums_above`` for that tau and each largest value 2^(-top / FINE)."""
    step = round(FINE / tau)
    levels, half = 2**bits - 1, step // 2
    index = np.arange(POWERS + 1)
    within = above[np.minimum(index + half, POWERS)]
    between = within.copy()
    between[half:] -= above[: len(above) - half]
    between *= np.exp2(-index / FINE).astype(np.float32)[:, None]
    sums = _summed(between, step)
    last = tops + step * np.minimum(levels - 1, (POWERS - tops) // step)
    result = within[tops] * np.exp2(-tops / FINE).astype(np.float32)[:, None]
    result += sums[last]
    result -= sums[tops]
    return result


def _summed(rows: F32, step: int) -> F32:
    """Add to each row, in place, all rows a multiple of ``step`` before it: much faster than a cumulative sum."""
    for start in range(step, len(rows), step):
        part = rows[start : start + step]
        part += rows[start - step : start - step + len(part)]
    return rows


class LogHistogram(AttentionRows):
    """Histogram of the logarithms of weights in 8 ``rows`` rows of each sample: shares in bins of 1/192 octave."""

    BINS = 192

    def __init__(self, rows: int, seed: int = 0) -> None:
        self.rows, self.seed, self.taken = rows, seed, POOL * rows
        self.shares = np.zeros(self.BINS * POWERS // FINE + 1)
        self.high, self.samples = 0.0, 0

    def _add(self, rows: F32, shape: tuple[int, ...], *partners: F32) -> None:
        if not np.isfinite(rows).all():
            raise NotFinite
        place = -self.BINS * np.log2(np.maximum(rows, 1e-20))
        counts = np.bincount(
            np.clip(place, 0, len(self.shares) - 1).astype(np.int64).reshape(-1), minlength=len(self.shares)
        )
        self.shares += counts / rows.size
        self.high, self.samples = max(self.high, float(rows.max())), self.samples + 1

    def points(self) -> tuple[F32, F64]:
        """Middles of the bins and their shares; the last bin, of all smaller weights, stands for zero."""
        values = np.exp2(-(np.arange(len(self.shares)) + 0.5) / self.BINS).astype(np.float32)
        values[-1] = 0
        return values, self.shares / max(self.samples, 1)

    def merge(self, other: Self) -> Self:
        """The spread of both."""
        both = type(self)(self.rows, self.seed)
        both.shares, both.high, both.samples = (
            self.shares + other.shares,
            max(self.high, other.high),
            self.samples + other.samples,
        )
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"shares": self.shares, "meta": np.array([self.high, self.samples])}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.shares, self.high, self.samples = (
            np.array(arrays["shares"]),
            float(arrays["meta"][0]),
            int(arrays["meta"][1]),
        )

    def kind(self) -> Hashable:
        """Type and settings."""
        return (type(self).__name__, self.rows, self.seed)
