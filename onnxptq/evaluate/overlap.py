"""Overlap of masks: IoU with the truth, precision at thresholds, and agreement of two models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.running.metrics import mask_iou, overlap, ratios

Array = NDArray[Any]


@dataclass
class MaskScore:
    """IoU of every mask with its truth; an empty union counts 0."""

    inter: list[int] = field(default_factory=list)
    union: list[int] = field(default_factory=list)

    def add(self, predicted: Array, true: Array) -> None:
        """Count mask pairs [n, H, W]."""
        both, either = overlap(predicted, true)
        self.inter += both.tolist()
        self.union += either.tolist()

    @property
    def iou(self) -> Array:
        """IoU of every pair so far."""
        return ratios(np.array(self.inter, np.int64), np.array(self.union, np.int64), empty=0.0)

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
        self.total += float(mask_iou(one, other).sum())
        self.count += len(one)

    @property
    def percent(self) -> float:
        """The mean so far."""
        return 100 * self.total / max(self.count, 1)
