"""Metrics of two arrays: SQNR, cosine, largest error, IoU of masks. Each is defined only here."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.running.masks import Pictures, fits

CHUNK = 1 << 20
MASK_CHANNELS = 8
MASK_SIDE = 8


@dataclass(frozen=True)
class Metrics:
    """Difference of one output from the reference, over all samples. None where a metric does not apply."""

    samples: int
    sqnr: float | None
    """Signal over error of all samples together, dB. inf: equal to the last bit; -inf: error without signal, or NaN."""
    median: float | None
    """Median over the samples of their SQNR."""
    worst: float | None
    """SQNR of the worst sample."""
    cosine: float | None
    max_error: float
    equal: float
    """Share of equal elements (the metric for integer outputs)."""
    agreement: float | None = None
    """Mean IoU of the two predictions, for masks only; two empty masks agree. Needs no labels."""
    broken: int = 0
    """Number of elements that are NaN or infinite in one of the two and differ in the other."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinities become the texts "inf" and "-inf"."""
        return {k: str(v) if isinstance(v, float) and math.isinf(v) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metrics:
        """The inverse of ``to_json``."""
        plain: dict[str, Any] = {k: float(v) if v in ("inf", "-inf") else v for k, v in data.items()}
        return cls(**plain)


def metrics(reference: NDArray[Any], other: NDArray[Any]) -> Metrics:
    """Metrics of one pair of arrays."""
    held = Accumulator()
    held.update(reference, other)
    return held.result()


def decibels(signal: float, error: float) -> float:
    """10 log10(signal / error); inf without error, even without signal; -inf for error without signal."""
    if error == 0:
        return math.inf
    return -math.inf if signal == 0 or math.isinf(error) else 10 * math.log10(signal / error)


@dataclass
class Accumulator:
    """Metrics of one output, accumulated over samples in constant memory."""

    signal: float = 0.0
    energy: float = 0.0
    product: float = 0.0
    error: float = 0.0
    max_error: float = 0.0
    same: int = 0
    count: int = 0
    broken: int = 0
    low: float = math.inf
    high: float = -math.inf
    discrete: bool = False
    logits: bool = False
    """Whether its masks, if any, are logits: values must lie on both sides of zero."""
    per_sample: list[float] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)

    def update(self, reference: NDArray[Any], other: NDArray[Any], pictures: Pictures | None = None) -> None:
        """Fold one sample in; a ValueError where the shapes differ. ``pictures``: sizes of its inputs."""
        if reference.shape != other.shape:
            raise ValueError(f"shape {list(reference.shape)} in the reference, {list(other.shape)} in the other")
        self.discrete |= reference.dtype.kind != "f"
        self.logits = reference.dtype.kind == "f" and reference.ndim == 4 and reference.shape[1] != 2
        signal, error, broken = self.signal, self.error, self.broken
        a, b = reference.reshape(-1), other.reshape(-1)
        for start in range(0, a.size, CHUNK):
            self._fold(a[start : start + CHUNK], b[start : start + CHUNK])
        lost = math.inf if self.broken > broken else 0.0
        self.per_sample.append(decibels(self.signal - signal, self.error - error + lost))
        self.agreements.extend(agreements(reference, other, pictures))

    def _fold(self, a: NDArray[Any], b: NDArray[Any]) -> None:
        x, y = a.astype(np.float64), b.astype(np.float64)
        equal = (a == b) | (np.isnan(x) & np.isnan(y))
        bad = ~(np.isfinite(x) & np.isfinite(y))
        self.same += int(equal.sum())
        self.count += a.size
        self.broken += int((bad & ~equal).sum())
        x[bad] = y[bad] = 0.0
        difference = np.abs(x - y)
        self.signal += float(x @ x)
        self.energy += float(y @ y)
        self.product += float(x @ y)
        self.error += float(difference @ difference)
        self.max_error = max(self.max_error, float(difference.max(initial=0.0)))
        self.low, self.high = min(self.low, float(x.min(initial=0.0))), max(self.high, float(x.max(initial=0.0)))

    def result(self) -> Metrics:
        """The metrics of all samples folded in so far."""
        equal = self.same / self.count if self.count else 1.0
        agreement = (
            statistics.fmean(self.agreements)
            if self.agreements and (not self.logits or self.low < 0 < self.high)
            else None
        )
        samples = len(self.per_sample)
        worst = math.inf if self.broken else self.max_error
        if self.discrete or not self.count:
            return Metrics(samples, None, None, None, None, worst, equal, agreement, self.broken)
        norm = math.sqrt(self.signal) * math.sqrt(self.energy)
        return Metrics(
            samples=samples,
            sqnr=decibels(self.signal, math.inf if self.broken else self.error),
            median=statistics.median_low(self.per_sample),
            worst=min(self.per_sample),
            cosine=min(1.0, self.product / norm) if norm > 0 and not self.broken else None,
            max_error=worst,
            equal=equal,
            agreement=agreement,
            broken=self.broken,
        )


def overlap(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Elements in the intersection and in the union of each pair of masks [n, ...]; a ValueError if shapes differ."""
    if one.shape != other.shape:
        raise ValueError(f"masks of shape {one.shape} against {other.shape}")
    axes = tuple(range(1, one.ndim))
    both = np.logical_and(one, other).sum(axes, dtype=np.int64)
    return both, np.logical_or(one, other).sum(axes, dtype=np.int64)


def mask_iou(one: NDArray[Any], other: NDArray[Any], *, empty: float = 1.0) -> NDArray[np.float64]:
    """IoU of each pair of masks [n, ...]; ``empty`` if both are empty: as predictions they agree."""
    return ratios(*overlap(one, other), empty=empty)


def ratios(intersections: NDArray[Any], unions: NDArray[Any], *, empty: float) -> NDArray[np.float64]:
    """Intersections over unions; ``empty`` for an empty union."""
    return np.where(unions > 0, intersections / np.maximum(unions, 1), empty)


def agreements(reference: NDArray[Any], other: NDArray[Any], sizes: Pictures | None = None) -> list[float]:
    """IoU of each mask predicted by both; [] where an output cannot be masks.

    Masks are, by shape and type: floats [N, C, H, W] with H, W >= 8 and C <= 8, where two channels are classes (argmax)
    and any other number are masks of their own (logit > 0; the Accumulator asks that values lie on both sides of zero);
    or integers and booleans [..., H, W], whose labels are compared one by one. Where the sizes of the sample's
    pictures are known, H and W must fit one of them. Feature maps have more channels or another size, token sequences
    fewer axes: no masks.
    """
    shape = reference.shape
    if len(shape) < 3 or min(shape[-2:]) < MASK_SIDE or reference.size == 0 or not fits(shape[-2:], sizes):
        return []
    if reference.dtype.kind in "biu":
        return [_labels(a, b) for a, b in zip(_flat(reference), _flat(other), strict=True)]
    if reference.dtype.kind != "f" or len(shape) != 4 or shape[1] > MASK_CHANNELS:
        return []
    if shape[1] == 2:
        a, b = reference[:, 1] > reference[:, 0], other[:, 1] > other[:, 0]
    else:
        a, b = reference > 0, other > 0
    found: list[float] = mask_iou(_flat(a), _flat(b)).tolist()
    return found


def _flat(x: NDArray[Any]) -> NDArray[Any]:
    return x.reshape(-1, x.shape[-2] * x.shape[-1])


def _labels(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean IoU over the labels in either array; for booleans the IoU of True."""
    labels = np.array([True]) if a.dtype.kind == "b" else np.union1d(a, b)
    return statistics.fmean(float(mask_iou(a[None] == label, b[None] == label)[0]) for label in labels)
