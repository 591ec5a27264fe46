"""Weight calibrators that round each value: by extrema, by percentiles, or on the 2.4-power grid."""

from __future__ import annotations

from onnxptq.calibration.statistics.base import F32
from onnxptq.calibrators.search.rounding import search_weight
from onnxptq.calibrators.weight_base import RoundingCalibrator
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice


class _Range(RoundingCalibrator):
    """A range found by the method of the calibrator's name."""

    def params(self, weight: F32, choice: Choice, axis: int | None, threads: int | None) -> UniformParams:
        """See ``search_weight``."""
        return search_weight(
            weight, bits=choice.bits, axis=axis, symmetric=choice.symmetric, method=self.name, threads=threads
        )


class MinMaxWeights(_Range):
    """Extrema."""

    name = "minmax"


class PercentileWeights(_Range):
    """The best of three percentile ranges by squared error."""

    name = "percentile"


class OmseWeights(_Range):
    """The grid of 100 widths times all zero-points."""

    name = "omse"
