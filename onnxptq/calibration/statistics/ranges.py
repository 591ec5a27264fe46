"""Ranges: extrema, moments and averaged extrema, of a whole tensor or of each channel."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from onnxptq.calibration.statistics.base import F32, F64, Axes, NotFinite, Observed, Observer, arranged


def flat(x: NDArray[Any], axis: Axes) -> F64:
    """One float64 number, or a vector over the channels."""
    return x.astype(np.float64).reshape(() if axis is None else -1)


@dataclass(eq=False)
class Range(Observed):
    """Extrema of the whole tensor (numbers) or of each channel (vectors), and the number of elements per channel."""

    axis: Axes = None
    heads: int | None = None
    low: F64 = field(default_factory=lambda: np.array(np.inf))
    high: F64 = field(default_factory=lambda: np.array(-np.inf))
    count: int = 0
    rank: int = 0
    """Rank of the tensor."""

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""
        if not x.size:
            return
        view, others = arranged(x, self.axis, self.heads)
        self._extrema(flat(view.min(axis=others), self.axis), flat(view.max(axis=others), self.axis), x.shape)
        self._sums(view, others)

    def _extrema(self, low: F64, high: F64, shape: tuple[int, ...]) -> None:
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise NotFinite
        self.low, self.high = np.minimum(self.low, low), np.maximum(self.high, high)
        self.count += math.prod(shape) // low.size
        self.rank = len(shape)

    def _sums(self, view: F32, others: tuple[int, ...]) -> None:
        """The additional sums of a subclass."""

    def merge(self, other: Self) -> Self:
        """The range of both."""
        both = type(self)(self.axis, self.heads)
        both.low, both.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        both.count, both.rank = self.count + other.count, max(self.rank, other.rank)
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"low": self.low, "high": self.high, "count": np.array([self.count, self.rank])}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.low, self.high = np.array(arrays["low"]), np.array(arrays["high"])
        self.count, self.rank = (int(n) for n in arrays["count"])

    def kind(self) -> Hashable:
        """Type and axes."""
        return (type(self).__name__, self.axis, self.heads)

    def observer(self) -> Observer | None:
        """Op ``Range``."""
        return Observer("Range", 1, {}, self.axis, self.heads)

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in low, high, sum, sum of squares and the number of bad values."""
        if 0 in shape:
            return
        low, high, total, squares, bad = (flat(x, self.axis) for x in np.moveaxis(outputs[0], -1, 0))
        if bad.any():
            raise NotFinite
        self._extrema(low, high, shape)
        self._absorb_sums(total, squares)

    def _absorb_sums(self, total: F64, squares: F64) -> None:
        """The additional sums of a subclass."""


@dataclass(eq=False)
class Moments(Range):
    """Extrema, sum and sum of squares."""

    total: F64 = field(default_factory=lambda: np.array(0.0))
    squares: F64 = field(default_factory=lambda: np.array(0.0))

    @property
    def mean(self) -> F64:
        """Mean."""
        result: F64 = self.total / max(self.count, 1)
        return result

    @property
    def variance(self) -> F64:
        """Variance (of the population)."""
        result: F64 = np.maximum(self.squares / max(self.count, 1) - self.mean**2, 0.0)
        return result

    def _sums(self, view: F32, others: tuple[int, ...]) -> None:
        letters = "abcdefgh"[: view.ndim]
        kept = "".join(letter for axis, letter in enumerate(letters) if axis not in others)
        squares = np.asarray(np.einsum(f"{letters},{letters}->{kept}", view, view, dtype=np.float64))
        self._absorb_sums(flat(view.sum(axis=others, dtype=np.float64), self.axis), flat(squares, self.axis))

    def _absorb_sums(self, total: F64, squares: F64) -> None:
        self.total, self.squares = self.total + total, self.squares + squares

    def merge(self, other: Self) -> Self:
        """The moments of both."""
        both = super().merge(other)
        both.total, both.squares = self.total + other.total, self.squares + other.squares
        return both

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return super().arrays() | {"total": self.total, "squares": self.squares}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        super().load(arrays)
        self.total, self.squares = np.array(arrays["total"]), np.array(arrays["squares"])


@dataclass(eq=False)
class AverageRange(Observed):
    """The mean of the extrema over samples, stored as sums and count, so that it merges."""

    axis: Axes = None
    heads: int | None = None
    lows: F64 = field(default_factory=lambda: np.array(0.0))
    highs: F64 = field(default_factory=lambda: np.array(0.0))
    samples: int = 0
    rank: int = 0
    """Rank of the tensor."""

    @property
    def low(self) -> F64:
        """Mean of the lowest values."""
        result: F64 = self.lows / max(self.samples, 1)
        return result

    @property
    def high(self) -> F64:
        """Mean of the highest values."""
        result: F64 = self.highs / max(self.samples, 1)
        return result

    def line(self, count: int) -> int:
        """The number of elements of one range, of ``count`` in all."""
        return count // max(self.samples * self.lows.size, 1)

    def update(self, x: F32) -> None:
        """Fold one sample's tensor in."""
        one = Range(self.axis, self.heads)
        one.update(x)
        self._add(one)

    def absorb(self, outputs: Sequence[NDArray[Any]], shape: tuple[int, ...], *partners: F32) -> None:
        """Fold in the output of op ``Range`` for one sample."""
        one = Range(self.axis, self.heads)
        one.absorb(outputs, shape)
        self._add(one)

    def _add(self, one: Range) -> None:
        if one.count:
            self.lows, self.highs = self.lows + one.low, self.highs + one.high
            self.samples, self.rank = self.samples + 1, one.rank

    def merge(self, other: Self) -> Self:
        """The average over the samples of both."""
        lows, highs = self.lows + other.lows, self.highs + other.highs
        return type(self)(self.axis, self.heads, lows, highs, self.samples + other.samples, max(self.rank, other.rank))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its whole state."""
        return {"lows": self.lows, "highs": self.highs, "samples": np.array([self.samples, self.rank])}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """The inverse of ``arrays``."""
        self.lows, self.highs = np.array(arrays["lows"]), np.array(arrays["highs"])
        self.samples, self.rank = (int(n) for n in arrays["samples"])

    def kind(self) -> Hashable:
        """Type and axes."""
        return ("AverageRange", self.axis, self.heads)

    def observer(self) -> Observer | None:
        """Op ``Range``."""
        return Observer("Range", 1, {}, self.axis, self.heads)
