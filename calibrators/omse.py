"""omse: the range of least squared error, on a fixed grid of shrunken ranges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from onnxptq.calibration.statistics.base import F64, Request, Several
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibration.statistics.ranges import Range
from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.calibrators.base import Calibrator, Search, channel_axes, with_range
from onnxptq.calibrators.search.objectives import column_error, histogram_error, uniform_codes
from onnxptq.ops import schemes
from onnxptq.ops.scheme import Params
from onnxptq.plan import Choice
from onnxptq.structure import Site

STEPS = 50
LEAST = 0.01
ROWS = 1024
Error = Callable[[F64, F64], F64]
"""Lower and upper ends [K, C] -> their errors [K, C]."""


class Omse(Calibrator):
    """Least squared error; both ends of the range shrink independently where the tensor has two sides.

    A bounded scalar minimiser would depend on its tolerance and version (T17), so the grid is fixed: first both ends by
    the same factor, then each end around the best, ever finer. Per tensor on a histogram of all values; per channel on
    sampled rows. Other schemes: the best of their own candidates, on the histogram.
    """

    name = "omse"

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        axis, heads = (None, None) if choice.scheme != "uniform" else channel_axes(site, choice)
        if axis is None:
            seen = cast(Histogram, (yield Request(site.tensor, Histogram())))
            if choice.scheme != "uniform":
                return replace(choice, params=best_candidate(seen, choice))
            ends = of_histogram(seen, choice)
            return with_range(site, choice, ends[0][0], ends[1][0], seen.count)
        both = cast(Several, (yield Request(site.tensor, Several(Range(axis, heads), RowSample(ROWS, axis, heads)))))
        extrema, rows = cast(Range, both.members[0]), cast(RowSample, both.members[1])
        ends = of_rows(extrema, rows, choice) if extrema.count else (extrema.low, extrema.high)
        return with_range(site, choice, *ends, extrema.count, extrema.rank)


def best_candidate(seen: Histogram, choice: Choice, candidates: Sequence[Params] = ()) -> Params:
    """The candidate with the least squared error on the histogram; by default the scheme's own candidates."""
    scheme = schemes()[choice.scheme]
    values, weights = seen.points()
    best: Params = min(
        candidates or list(scheme.grid(seen.low, seen.high, choice.bits)),
        key=lambda p: float(weights @ np.square(scheme.fake(values, p) - values, dtype=np.float64)),
    )
    return best


def of_histogram(seen: Histogram, choice: Choice) -> tuple[F64, F64]:
    """The ends [1] of least error of a whole tensor."""

    def error(low: F64, high: F64) -> F64:
        return histogram_error(seen, uniform_codes(low[:, 0], high[:, 0], choice.bits, signed=choice.symmetric))[
            :, None
        ]

    return least_error(np.array([seen.low]), np.array([seen.high]), error, two_sided=not choice.symmetric)


def of_rows(extrema: Range, rows: RowSample, choice: Choice) -> tuple[F64, F64]:
    """The ends [C] of least error of every channel."""

    def error(low: F64, high: F64) -> F64:
        codes = (uniform_codes(a, b, choice.bits, signed=choice.symmetric) for a, b in zip(low, high, strict=True))
        return np.stack([column_error(rows.sample, one) for one in codes])

    return least_error(extrema.low, extrema.high, error, two_sided=not choice.symmetric)


def least_error(low: F64, high: F64, error: Error, *, two_sided: bool) -> tuple[F64, F64]:
    """The shrunken ranges [C] of least error within [low, high]."""
    low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
    together = np.repeat((np.arange(STEPS, 0, -1) / STEPS)[None], 2, axis=0)
    best = _best(low, high, error, np.ones((2, low.size)), together - 1)
    step = 0.2
    while two_sided and step > 0.5 / STEPS and bool((low < 0).any() and (high > 0).any()):
        moves = np.stack(np.meshgrid(*2 * [step * np.arange(-2, 3)], indexing="ij")).reshape(2, -1)
        best = _best(low, high, error, best, moves)
        step /= 2
    best = _best(low, high, error, best, np.repeat((np.arange(-4, 5) / (5 * STEPS))[None], 2, axis=0))
    return best[0] * low, best[1] * high


def _best(low: F64, high: F64, error: Error, factors: F64, moves: F64) -> F64:
    """The best of the factors [2, C] moved by each of ``moves`` [2, K]; ties go to the smallest move."""
    order = np.argsort(np.abs(moves).sum(axis=0), kind="stable")
    tried = np.clip(factors[:, None, :] + moves[:, order, None], LEAST, 1.0)
    winner = error(tried[0] * low, tried[1] * high).argmin(axis=0)
    better: F64 = np.take_along_axis(tried, winner[None, None], axis=1)[:, 0]
    return better
