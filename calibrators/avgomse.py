"""avgomse: the mean of each sample's range of least error (PTQ4SAM's published observer of keys)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64, Observed, Observer, Request
from onnxptq.calibration.statistics.histogram import Histogram
from onnxptq.calibrators.base import Calibrator, Search, uniform_only, with_range
from onnxptq.calibrators.omse import least_error
from onnxptq.calibrators.search.objectives import uniform_codes
from onnxptq.errors import InputError
from onnxptq.plan import Choice
from onnxptq.structure import Site

EXPONENT = 2.4
_PER_STEP, _FEWEST = 16, 1024
"""Points of the histogram on which errors are measured: per step of the code, and in all."""


class AverageOmse(Calibrator):
    """Mean over samples of each sample's range of least mean |x^ - x|^exponent (option ``exponent``: 2.4 or 2).

    The published search is a bounded scalar minimiser, whose result depends on its tolerance; here the grid of ``omse``
    is searched on a histogram of each sample.
    """

    name = "avgomse"
    options: ClassVar[Mapping[str, Any]] = {"exponent": EXPONENT}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"exponent": (0.1, 16)}

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk."""
        uniform_only(site, choice)
        if choice.granularity != "tensor":
            raise InputError(
                f"site {site.key}: calibrator 'avgomse' finds one range for the tensor, not per {choice.granularity}"
            )
        statistic = BestRanges(choice.bits, choice.symmetric, float(self.settings(choice.options)["exponent"]))
        seen = cast(BestRanges, (yield Request(site.tensor, statistic)))
        return with_range(site, choice, seen.low / max(seen.samples, 1), seen.high / max(seen.samples, 1), seen.samples)


def _fewer(values: F32, weights: F64, wanted: int) -> tuple[F32, F64]:
    """Merge neighbouring points until between ``wanted`` and twice as many are left."""
    start = np.arange(0, len(values), max(len(values) // wanted, 1))
    mass = np.add.reduceat(weights, start)
    return (np.add.reduceat(values * weights, start) / mass).astype(np.float32), mass


class BestRanges(Observed):
    """Sums over samples of both ends of the range of least error."""

    def __init__(self, bits: int, symmetric: bool, exponent: float) -> None:
        self.bits, self.symmetric, self.exponent = bits, symmetric, exponent
        self.low, self.high, self.samples = 0.0, 0.0, 0

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""
        one = Histogram()
        one.update(x)
        self._add(one)

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Add the range of one sample's histogram, computed by op ``Histogram``."""
        one = Histogram()
        one.absorb(outputs, shape)
        self._add(one)

    def _add(self, one: Histogram) -> None:
        if not one.count:
            return
        values, weights = _fewer(*one.points(2), max(_FEWEST, _PER_STEP * 2**self.bits))

        def error(low: F64, high: F64) -> F64:
            codes = uniform_codes(low[:, 0], high[:, 0], self.bits, signed=self.symmetric)
            lowest = -codes.zero.astype(np.float32)
            found = np.empty((len(low), 1))
            for i, (scale, first) in enumerate(zip(codes.scale, lowest, strict=True)):
                change = np.clip(np.rint(values / scale), first, first + np.float32(2**self.bits - 1)) * scale - values
                found[i] = weights @ (np.abs(change) / unit) ** np.float32(self.exponent)
            return found

        # near 1 no power of an error underflows, whatever the unit
        unit = np.float32(max(-one.low, one.high)) or np.float32(1)
        low, high = least_error(np.array([one.low]), np.array([one.high]), error, two_sided=not self.symmetric)
        self.low, self.high, self.samples = self.low + float(low[0]), self.high + float(high[0]), self.samples + 1

    def merge(self, other: Self) -> Self:
        """The sums of both."""
        both = type(self)(self.bits, self.symmetric, self.exponent)
        both.low, both.high, both.samples = self.low + other.low, self.high + other.high, self.samples + other.samples
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"sums": np.array([self.low, self.high, self.samples])}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.low, self.high, self.samples = float(arrays["sums"][0]), float(arrays["sums"][1]), int(arrays["sums"][2])

    def kind(self) -> Hashable:
        """Type and settings."""
        return (type(self).__name__, self.bits, self.symmetric, self.exponent)

    def observer(self) -> Observer | None:
        """Op ``Histogram``."""
        return Histogram().observer()
