"""COCO's mean average precision of masks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class _Pairs:
    """One image's detections and objects of one category: all that matching needs."""

    scores: Array  # [d], falling
    areas: Array  # [d]
    iou: Array  # [d, g]
    true_areas: Array  # [g]
    crowd: Array  # [g]


@dataclass
class CocoAp:
    """Collects images; only small summaries are kept."""

    pairs: dict[int, list[_Pairs]] = field(default_factory=dict)

    def add(
        self,
        masks: Array,
        scores: Array,
        labels: Array,
        true_masks: Array,
        true_labels: Array,
        true_areas: Array,
        crowd: Array,
    ) -> None:
        """One image: predicted masks [d, H, W] with scores and categories, true masks [g, H, W] with theirs."""
        for category in sorted(set(labels.tolist()) | set(true_labels.tolist())):
            mine, theirs = np.flatnonzero(labels == category), np.flatnonzero(true_labels == category)
            mine = mine[np.argsort(-scores[mine], kind="mergesort")][:MAX_DETECTIONS]
            iou, areas = mask_iou(masks[mine], true_masks[theirs], crowd[theirs])
            found = _Pairs(scores[mine], areas, iou, true_areas[theirs], crowd[theirs].astype(np.bool_))
            self.pairs.setdefault(int(category), []).append(found)

    def table(self, area: str = "all") -> Array:
        """Average precision [categories, 10 thresholds] of objects of one size class; categories without such objects
        are left out."""
        found = [ap for images in self.pairs.values() if (ap := _category(images, AREAS[area])) is not None]
        return np.stack(found) if found else np.zeros((0, len(THRESHOLDS)))

    def summary(self) -> dict[str, float]:
        """AP as COCO reports it, in percent; size classes without objects are left out."""
        whole = self.table()
        if not len(whole):
            return {"AP": 0.0}
        figures = {"AP": 100 * float(whole.mean())}
        figures |= {f"AP{round(100 * THRESHOLDS[t])}": 100 * float(whole[:, t].mean()) for t in (0, 5)}
        sizes = {area: self.table(area) for area in ("small", "medium", "large")}
        return figures | {f"AP{area[0]}": 100 * float(table.mean()) for area, table in sizes.items() if len(table)}


def mask_iou(masks: Array, true_masks: Array, crowd: Array) -> tuple[Array, Array]:
    """IoU [d, g] and areas [d]; against a crowd the union is the detection's own area."""
    flat = masks.reshape(len(masks), int(np.prod(masks.shape[1:]))).astype(np.float32)
    true = true_masks.reshape(len(true_masks), flat.shape[1]).astype(np.float32)
    areas = flat.sum(1, dtype=np.float64)
    inter = (flat @ true.T).astype(np.float64) if len(flat) and len(true) else np.zeros((len(flat), len(true)))
    union = np.where(
        crowd[None].astype(np.bool_), areas[:, None], areas[:, None] + true.sum(1, dtype=np.float64)[None] - inter
    )
    return inter / np.maximum(union, 1e-9), areas


def _category(images: list[_Pairs], area: tuple[float, float]) -> Array | None:
    """Average precision at every threshold [10]; None where no object counts."""
    matched = [_match(one, area) for one in images]
    positives = sum(int((~(p.crowd | (p.true_areas < area[0]) | (p.true_areas > area[1]))).sum()) for p in images)
    if positives == 0:
        return None
    scores = np.concatenate([p.scores for p in images])
    order = np.argsort(-scores, kind="mergesort")
    hit = np.concatenate([m[0] for m in matched], axis=1)[:, order]
    ignored = np.concatenate([m[1] for m in matched], axis=1)[:, order]
    out = np.zeros(len(THRESHOLDS))
    for t in range(len(THRESHOLDS)):
        true, false = np.cumsum(hit[t] & ~ignored[t]), np.cumsum(~hit[t] & ~ignored[t])
        recall, precision = true / positives, true / np.maximum(true + false, np.finfo(np.float64).eps)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, RECALLS, side="left")
        out[t] = np.where(at < len(precision), np.append(precision, 0.0)[np.minimum(at, len(precision))], 0.0).mean()
    return out


def _match(p: _Pairs, area: tuple[float, float]) -> tuple[Array, Array]:
    """Greedy matching in score order: (hit, ignored), both [10, d].

    Every detection takes the free object it overlaps most; objects that do not count (crowds, other sizes) come last,
    may hide a detection, and only crowds do so more than once.
    """
    skip = p.crowd | (p.true_areas < area[0]) | (p.true_areas > area[1])
    order = np.argsort(skip, kind="mergesort")
    hit = np.zeros((len(THRESHOLDS), len(p.scores)), np.bool_)
    ignored = np.zeros_like(hit)
    outside = (p.areas < area[0]) | (p.areas > area[1])
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(skip), np.bool_)
        for d in range(len(p.scores)):
            best, match = min(threshold, 1 - 1e-10), -1
            for g in order:
                if taken[g] and not p.crowd[g]:
                    continue
                if match >= 0 and not skip[match] and skip[g]:
                    break
                if p.iou[d, g] >= best:
                    best, match = p.iou[d, g], int(g)
            if match >= 0:
                taken[match] = True
                hit[t, d], ignored[t, d] = True, skip[match]
            else:
                ignored[t, d] = outside[d]
    return hit, ignored
