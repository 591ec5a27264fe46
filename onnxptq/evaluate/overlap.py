"""How well masks match: IoU with the truth, precision at thresholds, and agreement of two models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def overlaps(predicted: Array, true: Array) -> tuple[Array, Array]:
    """Pixels in the intersection and in the union of mask pairs [n, H, W]."""
    if predicted.shape != true.shape:
        raise ValueError(f"masks of shape {predicted.shape} against {true.shape}")
    both = np.logical_and(predicted, true).sum((1, 2), dtype=np.int64)
    either = np.logical_or(predicted, true).sum((1, 2), dtype=np.int64)
    return both, either


@dataclass
class MaskScore:
    """IoU of every mask with its truth; an empty union counts 0."""

    inter: list[int] = field(default_factory=list)
    union: list[int] = field(default_factory=list)

    def add(self, predicted: Array, true: Array) -> None:
        """Count mask pairs [n, H, W]."""
        both, either = overlaps(predicted, true)
        self.inter += both.tolist()
        self.union += either.tolist()

    @property
    def iou(self) -> Array:
        """IoU of every pair so far."""
        out: Array = np.array(self.inter, np.float64) / np.maximum(np.array(self.union, np.float64), 1)
        return out

    def share(self, threshold: float) -> float:
        """Percentage of pairs whose IoU reaches ``threshold``."""
        return 100 * float((self.iou >= threshold).mean()) if self.inter else 0.0

    def summary(self) -> dict[str, float]:
        """Mean IoU in percent and the shares above 0.75 and 0.9, which separate methods sooner than the mean does."""
        mean = 100 * float(self.iou.mean()) if self.inter else 0.0
        return {"masks": len(self.inter), "mIoU": mean, "P@0.75": self.share(0.75), "P@0.9": self.share(0.9)}


@dataclass
class RefScore(MaskScore):
    """Referring segmentation, one mask a sentence: MIoU, OIoU and precision at IoU thresholds (inclusive)."""

    def summary(self) -> dict[str, float]:
        """MIoU is the mean of IoUs, OIoU all intersections over all unions; all in percent."""
        total = max(sum(self.union), 1)
        out = {"sentences": float(len(self.inter)), "MIoU": 100 * float(self.iou.mean()) if self.inter else 0.0}
        out["OIoU"] = 100 * sum(self.inter) / total
        return out | {f"P@{t}": self.share(t) for t in (0.5, 0.6, 0.7, 0.8, 0.9)}


@dataclass
class Agreement:
    """Mean IoU of two models' predictions. Needs no labels, and is far less noisy than a difference of IoUs."""

    total: float = 0.0
    count: int = 0

    def add(self, one: Array, other: Array) -> None:
        """Count mask pairs [n, H, W]; two empty masks agree."""
        both, either = overlaps(one, other)
        self.total += float(np.where(either > 0, both / np.maximum(either, 1), 1.0).sum())
        self.count += len(both)

    @property
    def percent(self) -> float:
        """The mean so far."""
        return 100 * self.total / max(self.count, 1)
