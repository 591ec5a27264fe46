"""COCO's mean average precision of masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.evaluate.extra import extra

Array = NDArray[Any]
SIZES = ("small", "medium", "large")


class CocoAp:
    """Collects images; keeps only the run lengths of masks."""

    def __init__(self) -> None:
        self._coding = extra("pycocotools.mask")
        self._images: list[dict[str, Any]] = []
        self._true: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

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
        height, width = true_masks.shape[1:]
        self._images.append({"id": len(self._images) + 1, "height": height, "width": width})
        for mask, score, label in zip(masks, scores, labels, strict=True):
            coded = self._coded(mask)
            self._append(self._found, coded, label, self._coding.area(coded), score=float(score), iscrowd=0)
        for mask, label, area, many in zip(true_masks, true_labels, true_areas, crowd, strict=True):
            self._append(self._true, self._coded(mask), label, area, iscrowd=int(many))

    def summary(self) -> dict[str, float]:
        """AP as COCO reports it, in percent; size classes without objects are left out."""
        precision = self._precision()
        whole = precision[:, :, :, 0]
        figures: dict[str, float | None] = {"AP": _mean(whole) or 0.0, "AP50": _mean(whole[0]), "AP75": _mean(whole[5])}
        figures |= {f"AP{name[0]}": _mean(precision[:, :, :, 1 + k]) for k, name in enumerate(SIZES)}
        return {name: value for name, value in figures.items() if value is not None}

    def _precision(self) -> Array:
        """Precision [threshold, recall, category, size] with at most 100 detections an image; -1 where no object is."""
        if not self._true:
            return np.full((10, 101, 0, 4), -1.0)
        with contextlib.redirect_stdout(io.StringIO()):
            run = extra("pycocotools.cocoeval").COCOeval(self._coco(self._true), self._coco(self._found), "segm")
            run.evaluate()
            run.accumulate()
        precision: Array = run.eval["precision"][..., -1]
        return precision

    def _coco(self, annotations: list[dict[str, Any]]) -> Any:
        coco = extra("pycocotools.coco").COCO()
        labels = sorted({one["category_id"] for one in (*self._true, *self._found)})
        categories = [{"id": label, "name": str(label)} for label in labels]
        coco.dataset = {"info": {}, "images": self._images, "annotations": annotations, "categories": categories}
        coco.createIndex()
        return coco

    def _coded(self, mask: Array) -> Any:
        return self._coding.encode(np.asfortranarray(mask, np.uint8))

    def _append(self, to: list[dict[str, Any]], coded: Any, label: int, area: float, **more: Any) -> None:
        place = {"id": len(to) + 1, "image_id": len(self._images), "category_id": int(label)}
        to.append({**place, "segmentation": coded, "area": float(area), **more})


def _mean(precision: Array) -> float | None:
    """Mean in percent over the categories with objects; None if there are none."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else None
