"""lloyd: freely placed values, by Lloyd's algorithm on a histogram weighted by each channel's weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np

from onnxptq.calibration.statistics.base import F32, F64, Request, Several
from onnxptq.calibration.statistics.ranges import Range
from onnxptq.calibration.statistics.rows import RowSample, Whole
from onnxptq.calibrators.base import WEIGHTED, Calibrator, Search, as_matrix
from onnxptq.ops.table import between_cells, table
from onnxptq.plan import Choice
from onnxptq.structure import Site

ROWS = 1024
BINS = 4096
STEPS = 60


class Lloyd(Calibrator):
    """Scheme ``table``: a channel's squared error is weighted by the squared norm of the weights that read it.

    Option ``largest`` is the greatest magnitude of a stored value: 127, or 31 for values on a 6-bit grid.
    """

    name = "lloyd"
    widths: ClassVar[range] = range(2, 7)
    options: ClassVar[Mapping[str, Any]] = {"largest": 127}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"largest": (1, 127)}

    def search(self, site: Site, choice: Choice) -> Search:
        """One walk, and the weight."""
        both = cast(Several, (yield Request(site.tensor, Several(Range(), RowSample(ROWS, site.axis)))))
        extrema, rows = cast(Range, both.members[0]), cast(RowSample, both.members[1]).sample
        importance = np.ones(rows.shape[1])
        if site.role in WEIGHTED:
            weight = as_matrix(cast(Whole, (yield Request(site.consumer, Whole()))).value, rows.shape[1])
            if weight is not None:
                importance = np.square(weight, dtype=np.float64).sum(axis=1)
        largest = self.settings(choice.options)["largest"]
        levels = (
            lloyd(rows, importance, choice.bits, float(extrema.low), float(extrema.high))
            if rows.size
            else np.zeros(2**choice.bits)
        )
        return replace(
            choice,
            scheme="table",
            granularity="tensor",
            params=between_cells(table(levels, choice.bits, largest=largest)),
        )


def lloyd(rows: F32, importance: F64, bits: int, low: float, high: float) -> F64:
    """The 2^bits levels, ascending. One of them is always zero: padding and inactive channels are exactly zero."""
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 0:
        return np.zeros(2**bits)
    place = np.clip(((rows.astype(np.float64) - low) * (BINS / (high - low))).astype(np.int64), 0, BINS - 1)
    spread = np.broadcast_to(importance, rows.shape)
    mass = np.bincount(place.reshape(-1), weights=spread.reshape(-1), minlength=BINS)
    total = np.bincount(place.reshape(-1), weights=(spread * rows).reshape(-1), minlength=BINS)
    mass_below, total_below = np.concatenate([[0.0], np.cumsum(mass)]), np.concatenate([[0.0], np.cumsum(total)])
    # start at the cube root of the density: for many levels that is the optimum
    density = np.cumsum(np.cbrt(mass))
    centres = low + (np.arange(BINS) + 0.5) * (high - low) / BINS
    levels = np.interp((np.arange(2**bits) + 0.5) / 2**bits * density[-1], density, centres)
    for _ in range(STEPS):
        edges = np.clip(np.searchsorted(centres, (levels[1:] + levels[:-1]) / 2), 0, BINS)
        cut = np.concatenate([[0], edges, [BINS]])
        held, sums = np.diff(mass_below[cut]), np.diff(total_below[cut])
        levels = np.where(held > 0, sums / np.maximum(held, 1e-300), levels)
        levels[np.abs(levels).argmin()] = 0.0
        levels.sort()
    result: F64 = levels
    return result
