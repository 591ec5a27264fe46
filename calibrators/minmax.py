"""minmax: extrema over all samples."""

from __future__ import annotations

from typing import cast

from onnxptq.calibration.statistics.base import Request
from onnxptq.calibration.statistics.ranges import Range
from onnxptq.calibrators.base import Calibrator, Search, channel_axes, uniform_only, with_range
from onnxptq.plan import Choice
from onnxptq.structure import Site


class MinMax(Calibrator):
    """Extrema over all samples: no value seen is clipped."""

    name = "minmax"

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        uniform_only(site, choice)
        seen = cast(Range, (yield Request(site.tensor, Range(*channel_axes(site, choice)))))
        return with_range(site, choice, seen.low, seen.high, seen.count, seen.rank)
