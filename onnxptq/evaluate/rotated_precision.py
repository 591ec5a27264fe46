"""Average precision of rotated rectangles, as DOTA's task of oriented boxes scores it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.evaluate.rectangles import iou

Array = NDArray[Any]


@dataclass(frozen=True)
class Found:
    """A predicted rectangle."""

    image: str
    corners: Array
    score: float


@dataclass
class RotatedAp:
    """Collects true and predicted rectangles by category."""

    truth: dict[str, dict[str, list[tuple[Array, bool]]]] = field(default_factory=dict)
    found: dict[str, list[Found]] = field(default_factory=dict)

    def add_truth(self, category: str, image: str, corners: Array, difficult: bool) -> None:
        """Add a true rectangle; a difficult one counts neither as missed nor, when found, as an error."""
        self.truth.setdefault(category, {}).setdefault(image, []).append((corners, difficult))

    def add(self, category: str, found: Found) -> None:
        """One prediction."""
        self.found.setdefault(category, []).append(found)

    def average(self, threshold: float) -> float:
        """Mean over categories of the area under the precision-recall curve, percent."""
        found = [ap for category in self.truth if (ap := self._category(category, threshold)) is not None]
        return 100 * float(np.mean(found)) if found else 0.0

    def summary(self) -> dict[str, float]:
        """Rotated mAP at 0.5 and 0.75, and over ten thresholds."""
        at = {t: self.average(float(t)) for t in np.linspace(0.5, 0.95, 10).round(2).tolist()}
        return {"mAP": float(np.mean(list(at.values()))), "mAP50": at[0.5], "mAP75": at[0.75]}

    def _category(self, category: str, threshold: float) -> float | None:
        truth = self.truth[category]
        positives = sum(not difficult for objects in truth.values() for _, difficult in objects)
        if not positives:
            return None
        taken: set[tuple[str, int]] = set()
        hits: list[bool] = []
        for one in sorted(self.found.get(category, ()), key=lambda f: -f.score):
            objects = truth.get(one.image, [])
            overlap = [_quick_iou(one.corners, corners) for corners, _ in objects]
            best = int(np.argmax(overlap)) if overlap else -1
            if best < 0 or overlap[best] < threshold:
                hits.append(False)
            elif not objects[best][1]:
                hits.append((one.image, best) not in taken)
                taken.add((one.image, best))
        true = np.cumsum(hits)
        recall, precision = true / positives, true / np.maximum(np.arange(1, len(hits) + 1), 1)
        envelope = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
        return float((np.diff(np.concatenate(([0.0], recall))) * envelope[: len(recall)]).sum())


def _quick_iou(one: Array, other: Array) -> float:
    """0 at once where the upright boxes around both do not meet."""
    if (one.max(0) <= other.min(0)).any() or (other.max(0) <= one.min(0)).any():
        return 0.0
    return iou(one, other)
