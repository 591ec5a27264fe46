"""The weight grid of PTQ4SAM and PTQ4RIS: 100 widths times every zero-point, by the 2.4th power of the error, made
fast.

An element inside the window of representable values is rounded, and its error depends on the width alone; one outside
is clipped. So each width needs one pass over the weights, and each zero-point only the elements it clips. Zero-points
are tried outwards from the proportional one; the clipping error alone is a convex function of the zero-point and a
lower bound of the whole error, so once it grows beyond the best error so far, the rest of that side cannot win.
Likewise for narrower windows: they clip at least as much. What is left out could not have won, so the answer is that of
the full grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64

I64 = NDArray[np.int64]
POWER = 2.4
STEPS = 100
_DENSE = 0.15
"""Share of clipped elements above which one pass over all elements is cheaper than picking them out."""
SMALLEST = np.float32(1.17549435e-38)


@dataclass(frozen=True)
class Grid:
    """The candidates."""

    bits: int
    zero: int | None
    """The only zero-point (symmetric codes; tensors with one side), or None: all are tried."""
    levels: float
    """Steps in the full width."""

    @classmethod
    def of(cls, bits: int, *, symmetric: bool, low: float, high: float) -> Grid:
        """The grid of a tensor with these extrema."""
        n = 2**bits - 1
        if symmetric:
            return cls(bits, 2 ** (bits - 1), 2 ** (bits - 1) - 0.5)
        if low >= 0 or high <= 0:
            return cls(bits, 0 if low >= 0 else n, n)
        return cls(bits, None, n)


class _Rows:
    """Sorted rows, with counts of the elements below a bound."""

    def __init__(self, rows: F32) -> None:
        self.w = np.sort(rows, axis=1)
        self.low, self.high = (
            np.minimum(self.w[:, 0], 0).astype(np.float64),
            np.maximum(self.w[:, -1], 0).astype(np.float64),
        )
        # One sorted sequence of all rows: an element so near to a bound that this shifts it has the same error on both
        # sides.
        self._apart = 4 * max(float((self.high - self.low).max()), float(SMALLEST))
        self._line = (self.w + self._apart * np.arange(len(self.w))[:, None]).reshape(-1)

    def below(self, rows: I64, bound: F64) -> I64:
        """Number of elements below its bound, for each of the rows."""
        length = self.w.shape[1]
        inside = np.clip(bound, self.low[rows] - self._apart / 4, self.high[rows] + self._apart / 4)
        count: I64 = np.clip(np.searchsorted(self._line, inside + self._apart * rows) - rows * length, 0, length)
        return count


class _Width:
    """One width on some rows: rounding errors, and the clipping error of a zero-point."""

    def __init__(self, data: _Rows, rows: I64, step: F32, last: int) -> None:
        self.data, self.rows, self.step, self.last = data, rows, step, last
        w = data.w if len(rows) == len(data.w) else data.w[rows]
        errors = w / step[:, None]
        np.rint(errors, out=errors)
        errors *= step[:, None]
        errors -= w
        self.errors = _power(errors)
        self.total = errors.sum(axis=1).astype(np.float64)

    def clipped(self, chosen: I64, zero: I64) -> tuple[F64, F64]:
        """Error and its clipping part, for the ``chosen`` rows with these zero-points."""
        rows, step, length = self.rows[chosen], self.step[chosen], self.data.w.shape[1]
        below, above = -zero.astype(np.float32) * step, (self.last - zero).astype(np.float32) * step
        lows = self.data.below(rows, below.astype(np.float64))
        highs = self.data.below(rows, above.astype(np.float64))
        if (lows + length - highs).sum() > _DENSE * len(chosen) * length:
            return self._dense(chosen, rows, below[:, None], above[:, None])
        owner, place = _ragged(np.concatenate([lows, length - highs]), np.concatenate([np.zeros_like(lows), highs]))
        clip = _power(self.data.w[np.tile(rows, 2)[owner], place] - np.concatenate([below, above])[owner])
        owner %= len(chosen)
        clipping: F64 = np.bincount(owner, clip, minlength=len(chosen)).astype(np.float64)
        rounding = np.bincount(owner, self.errors[chosen[owner], place], minlength=len(chosen))
        return np.maximum(self.total[chosen] - rounding, 0.0) + clipping, clipping

    def _dense(self, chosen: I64, rows: I64, below: F32, above: F32) -> tuple[F64, F64]:
        """``clipped`` by a pass over all elements: cheaper where many are clipped."""
        w = self.data.w[rows]
        inside = np.clip(w, below, above)
        outside = inside != w
        inside -= w
        clip = _power(inside)
        clipping = clip.sum(axis=1).astype(np.float64)
        np.copyto(clip, self.errors[chosen], where=~outside)
        return clip.sum(axis=1).astype(np.float64), clipping


def grid_search(rows: F32, grid: Grid) -> tuple[F32, NDArray[np.uint8]]:
    """Scale and zero-point of each row."""
    # times a power of two each row lies within [-1, 1], whatever its unit, and no power of an error overflows
    exponent = np.frexp(np.abs(rows).max(axis=1))[1]
    data, last = _Rows(np.ldexp(rows, -exponent[:, None])), 2**grid.bits - 1
    extent = np.maximum(-data.low, data.high) if grid.zero is not None else data.high - data.low
    start = np.full(len(rows), grid.zero if grid.zero is not None else 0, np.int64)
    if grid.zero is None:
        start = np.rint(-data.low / np.maximum(extent, SMALLEST) * last).astype(np.int64)
    best, stop = np.full(len(rows), np.inf), np.zeros(len(rows), np.int64)
    scale, zero = np.maximum(extent / grid.levels, SMALLEST).astype(np.float32), start.copy()
    alive = np.flatnonzero(extent > 0)
    for width in range(STEPS, 0, -1):
        alive = alive[stop[alive] < width]
        if not alive.size:
            break
        step = np.maximum(extent[alive] * (width / STEPS) / grid.levels, SMALLEST).astype(np.float32)
        tried = _Width(data, alive, step, last)
        found, where, clipping = _outwards(tried, start[alive], best[alive], explore=grid.zero is None)
        better = found < best[alive]
        best[alive] = np.minimum(best[alive], found)
        scale[alive[better]], zero[alive[better]] = step[better], where[better]
        # a window narrower by this much lies within one of this width, whatever its zero-point
        narrower = width - (-(-width // last) if grid.zero is None else 1)
        hopeless = clipping > best[alive]
        stop[alive[hopeless]] = np.maximum(stop[alive[hopeless]], narrower)
    return np.maximum(np.ldexp(scale, exponent), SMALLEST), zero.astype(np.uint8)


def _outwards(tried: _Width, start: I64, best: F64, *, explore: bool) -> tuple[F64, I64, F64]:
    """The least error of each row, its zero-point, and the least clipping error."""
    everyone = np.arange(len(start))
    found, first = tried.clipped(everyone, start)
    where, least = start.copy(), first.copy()
    for direction in (1, -1) if explore else ():
        rows, zero, before = everyone, start, first
        while rows.size:
            zero = zero + direction
            inside = (zero >= 0) & (zero <= tried.last)
            rows, zero, before = rows[inside], zero[inside], before[inside]
            error, clip = tried.clipped(rows, zero)
            better = error < found[rows]
            found[rows[better]], where[rows[better]] = error[better], zero[better]
            least[rows] = np.minimum(least[rows], clip)
            hopeful = (clip < before) | (clip <= np.minimum(best, found)[rows])
            rows, zero, before = rows[hopeful], zero[hopeful], clip[hopeful]
    return found, where, least


def _power(x: F32) -> F32:
    """|x|^2.4, in place."""
    np.abs(x, out=x)
    with np.errstate(divide="ignore"):
        np.log(x, out=x)
    x *= np.float32(POWER)
    np.exp(x, out=x)
    return x


def _ragged(lengths: I64, starts: I64) -> tuple[I64, I64]:
    """Row number and place of the ``lengths`` consecutive elements from ``starts`` on, for every row."""
    owner = np.repeat(np.arange(len(lengths)), lengths)
    offset = np.repeat(starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    return owner, np.arange(lengths.sum()) + offset
