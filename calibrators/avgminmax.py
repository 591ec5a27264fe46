"""avgminmax: the mean of each sample's extrema (the observer of PTQ4SAM's released configurations)."""

from __future__ import annotations

from typing import cast

from onnxptq.calibration.statistics.base import Request
from onnxptq.calibration.statistics.ranges import AverageRange
from onnxptq.calibrators.base import Calibrator, Search, channel_axes, uniform_only, with_range
from onnxptq.plan import Choice
from onnxptq.structure import Site


class AverageMinMax(Calibrator):
    """Mean of the extrema of each sample: one unusual sample widens the range only by its share."""

    name = "avgminmax"

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        uniform_only(site, choice)
        seen = cast(AverageRange, (yield Request(site.tensor, AverageRange(*channel_axes(site, choice)))))
        return with_range(site, choice, seen.low, seen.high, seen.samples, seen.rank)
