"""Spread: the location of each channel's values on sampled tokens, for passes that centre and balance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import Request, Statistic
from onnxptq.calibration.statistics.rows import RowSample

F64 = NDArray[np.float64]
ROWS = 1024
"""Tokens kept of all samples together: any centre and factor is exact, so an estimate suffices."""


def ask(tensor: str) -> Request:
    """A request for tokens of ``tensor``; its last axis counts channels."""
    return Request(tensor, RowSample(ROWS))


@dataclass(frozen=True)
class Spread:
    """Per channel: the range between two quantiles, the mean and the deviation."""

    low: F64
    high: F64
    mean: F64
    deviation: F64

    @classmethod
    def of(cls, answer: Statistic, quantile: float, channels: NDArray[Any] | None = None) -> Spread | None:
        """The spread of the chosen ``channels`` (None: all) of an answer to ``ask``.

        Ranges are from ``quantile`` to 1 - ``quantile``.
        """
        rows = cast(RowSample, answer).sample
        if not rows.size:
            return None
        rows = rows.astype(np.float64) if channels is None else rows[:, channels].astype(np.float64)
        low, high = np.quantile(rows, (quantile, 1 - quantile), axis=0)
        return cls(low, high, rows.mean(axis=0), rows.std(axis=0))

    def centre(self, rule: str) -> F64:
        """Middle of the range (rule ``range``), or the mean (``mean``)."""
        return self.mean if rule == "mean" else (self.low + self.high) / 2

    @property
    def extent(self) -> F64:
        """Largest magnitude in the range."""
        return np.maximum(np.abs(self.low), np.abs(self.high))
