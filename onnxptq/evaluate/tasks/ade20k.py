"""Semantic refinement on ADE20K: another segmentor's class map, redrawn by Segment Anything.

Every connected component of the coarse map gives a box; the mask SAM draws for it overwrites the map with the
component's class, big components first, so that small things stay on top. The score is mIoU over the data set, pixels
without a class left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.datasets.ade20k import CLASSES, Ade20k, Scene
from onnxptq.evaluate.components import label
from onnxptq.evaluate.predictors import Masks, SamPredictor
from onnxptq.evaluate.task import Task, View

Array = NDArray[Any]


@dataclass(frozen=True)
class Components:
    """One photograph, its coarse map, and the components to redraw: class and box [n, 4] of each, biggest first."""

    scene: Scene
    coarse: Array
    classes: Array
    boxes: Array


class _Scorer:
    def __init__(self) -> None:
        self.refined = np.zeros((CLASSES + 1, CLASSES + 1), np.int64)
        self.coarse = np.zeros_like(self.refined)

    def add(self, sample: Components, found: Masks) -> None:
        """Pixels by true and by predicted class."""
        truth, drawn = sample.scene.truth(), sample.coarse.copy()
        for category, mask in zip(sample.classes, found.masks, strict=True):
            drawn[mask] = category
        self.refined += confusion(truth, drawn)
        self.coarse += confusion(truth, sample.coarse)

    def summary(self) -> dict[str, float]:
        """mIoU, pixel accuracy, and the coarse map's own mIoU."""
        return {
            "mIoU": mean_iou(self.refined),
            "accuracy": accuracy(self.refined),
            "coarse mIoU": mean_iou(self.coarse),
        }


class Ade20kRefinement(Task[Components]):
    """Redraw a coarse segmentation."""

    name, main = "ade20k", "mIoU"

    def __init__(self, data: Ade20k, *, smallest: int = 100, most: int = 200) -> None:
        """Components of fewer than ``smallest`` pixels are not redrawn, nor all beyond the ``most`` biggest."""
        self.data, self.smallest, self.most = data, smallest, most

    def __len__(self) -> int:
        return len(self.data.scenes)

    def sample(self, index: int) -> Components:
        """A photograph, in file order."""
        scene = self.data.scenes[index]
        coarse = scene.coarse()
        classes, boxes = components(coarse, self.smallest)
        return Components(scene, coarse, classes[: self.most], boxes[: self.most])

    def predict(self, predictor: SamPredictor, sample: Components) -> Masks:
        """Mask 0 of every component's box."""
        return predictor.masks(sample.scene.image(), sample.boxes)

    def scorer(self) -> _Scorer:
        """mIoU."""
        return _Scorer()

    def view(self, sample: Components) -> View:
        """The photograph with its true classes."""
        truth = sample.scene.truth()
        present = [c for c in np.unique(truth) if c > 0]
        masks = np.stack([truth == c for c in present]) if present else np.zeros((0, *truth.shape), np.bool_)
        return View(sample.scene.image(), masks, sample.scene.name)


def components(coarse: Array, smallest: int) -> tuple[Array, Array]:
    """Class [n] and box [n, 4] of every component of ``smallest`` pixels or more, biggest first."""
    found: list[tuple[int, int, tuple[int, int, int, int]]] = []
    for category in np.unique(coarse):
        if category == 0:
            continue
        labels, count = label(coarse == category)
        for k in range(1, count + 1):
            rows, cols = np.nonzero(labels == k)
            if len(rows) >= smallest:
                found.append(
                    (len(rows), int(category), (int(cols.min()), int(rows.min()), int(cols.max()), int(rows.max())))
                )
    found.sort(key=lambda one: -one[0])
    boxes = np.array([box for *_, box in found], np.float32).reshape(-1, 4)
    return np.array([category for _, category, _ in found], np.int64), boxes


def confusion(truth: Array, drawn: Array) -> Array:
    """Pixel counts [true class, predicted class]."""
    side = CLASSES + 1
    return np.bincount((truth * side + drawn).ravel(), minlength=side * side).reshape(side, side)


def mean_iou(table: Array) -> float:
    """Mean over the classes in truth or prediction, at pixels that have a true class; percent."""
    counted = table[1:]
    hit = np.diagonal(table)[1:]
    union = counted.sum(1) + counted[:, 1:].sum(0) - hit
    present = union > 0
    return 100 * float((hit[present] / union[present]).mean()) if present.any() else 0.0


def accuracy(table: Array) -> float:
    """Share of pixels with a class that are predicted right, percent."""
    return 100 * float(np.diagonal(table)[1:].sum() / max(int(table[1:].sum()), 1))
