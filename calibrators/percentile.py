"""percentile: the best of three percentile ranges by squared error (the observer of PTQ4RIS and RepQ-ViT)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.base import Request, Several
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibration.statistics.ranges import Range
from onnxptq.calibration.statistics.rows import RowSample
from onnxptq.calibrators.base import Calibrator, Search, channel_axes, uniform_only, with_range
from onnxptq.calibrators.search.objectives import column_error, few_digits, histogram_error, uniform_codes
from onnxptq.ops import schemes
from onnxptq.ops.body import LARGEST
from onnxptq.ops.log_base import LogBaseParams
from onnxptq.ops.uniform import SMALLEST
from onnxptq.plan import Choice
from onnxptq.structure import Site

SHARES = (0.99999, 0.9999, 0.999)
"""In the published code the best score is never updated, so 99.999 % always wins (T4); here all three are compared."""
ROWS = 4096


class Percentile(Calibrator):
    """Ranges from the 1 - p to the p quantile, p = 99.999, 99.99, 99.9 %; the one of least squared error, extended to
    0.

    Per tensor on a histogram of all values; per channel on sampled rows. For scheme ``log_base`` the p quantile is the
    largest value, and option ``tau`` is the number of steps that halve it (2: RepQ-ViT's powers of the square root of
    2).
    """

    name = "percentile"
    options: ClassVar[Mapping[str, Any]] = {"tau": 2.0}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"tau": (0.1, 64)}

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        if choice.scheme == "log_base":
            return replace(choice, params=_log_base(cast(Histogram, (yield Request(site.tensor, Histogram()))), choice))
        uniform_only(site, choice)
        axis, heads = channel_axes(site, choice)
        if axis is None:
            seen = cast(Histogram, (yield Request(site.tensor, Histogram())))
            low = np.array([seen.quantile(1 - share) for share in SHARES])
            high = np.array([seen.quantile(share) for share in SHARES])
            best = int(histogram_error(seen, uniform_codes(low, high, choice.bits, signed=choice.symmetric)).argmin())
            return with_range(site, choice, low[best], high[best], seen.count)
        both = cast(Several, (yield Request(site.tensor, Several(Range(axis, heads), RowSample(ROWS, axis, heads)))))
        extrema, rows = cast(Range, both.members[0]), cast(RowSample, both.members[1]).sample
        if not len(rows):
            return with_range(site, choice, extrema.low, extrema.high, extrema.count, extrema.rank)
        lows, highs = np.quantile(rows, [1 - share for share in SHARES], axis=0), np.quantile(rows, SHARES, axis=0)
        codes = [
            uniform_codes(low, high, choice.bits, signed=choice.symmetric)
            for low, high in zip(lows, highs, strict=True)
        ]
        winner = np.stack([column_error(rows, one) for one in codes]).argmin(axis=0)[None]
        low, high = (np.take_along_axis(ends, winner, axis=0)[0] for ends in (lows, highs))
        return with_range(site, choice, low, high, extrema.count, extrema.rank)


def _log_base(seen: Histogram, choice: Choice) -> LogBaseParams:
    """Log-base codes whose largest value is the best of the quantiles."""
    values, weights = seen.points()
    tau = float(choice.options.get("tau", Percentile.options["tau"]))
    tops = [min(max(seen.quantile(share), SMALLEST), LARGEST) for share in SHARES]
    candidates = [LogBaseParams(choice.bits, top, tau) for top in tops]
    scheme = schemes()["log_base"]
    return min(
        candidates,
        key=lambda p: float(few_digits(weights @ np.square(scheme.fake(values, p) - values, dtype=np.float64))),
    )
