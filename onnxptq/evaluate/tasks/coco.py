"""Instance segmentation by box prompts on COCO: boxes from a detector's results, or the true ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxptq.datasets.coco import Coco, Detection, Photo
from onnxptq.evaluate.average_precision import CocoAp
from onnxptq.evaluate.predictors import Masks, SamPredictor
from onnxptq.evaluate.task import Task, View


@dataclass(frozen=True)
class Prompted:
    """One photograph and the boxes to segment."""

    photo: Photo
    boxes: tuple[Detection, ...]


class _Scorer:
    def __init__(self) -> None:
        self.ap = CocoAp()

    def add(self, sample: Prompted, found: Masks) -> None:
        """Scores are the detector's times the predicted IoU."""
        photo = sample.photo
        self.ap.add(
            found.masks,
            np.array([b.score for b in sample.boxes]) * found.scores,
            np.array([b.category for b in sample.boxes], np.int64),
            photo.masks(),
            np.array([i.category for i in photo.instances], np.int64),
            np.array([i.area for i in photo.instances]),
            np.array([i.crowd for i in photo.instances], np.bool_),
        )

    def summary(self) -> dict[str, float]:
        """COCO's figures."""
        return self.ap.summary()


class CocoBoxes(Task[Prompted]):
    """mAP of masks; images without a box count too: their objects are missed."""

    name, main = "coco", "AP"

    def __init__(
        self, data: Coco, detections: Mapping[int, Sequence[Detection]] | None = None, *, most: int = 100
    ) -> None:
        """At most ``most`` boxes an image, best first; without detections the true boxes of all but crowds."""
        self.data, self.detections, self.most = data, detections, most

    def __len__(self) -> int:
        return len(self.data.photos)

    def sample(self, index: int) -> Prompted:
        """A photograph, in annotation order."""
        photo = self.data.photos[index]
        if self.detections is None:
            return Prompted(photo, tuple(Detection(i.category, i.box, 1.0) for i in photo.instances if not i.crowd))
        return Prompted(photo, tuple(self.detections.get(photo.id, ())[: self.most]))

    def predict(self, predictor: SamPredictor, sample: Prompted) -> Masks:
        """Mask 0 of every box."""
        return predictor.masks(sample.photo.image(), np.array([b.box for b in sample.boxes], np.float32).reshape(-1, 4))

    def scorer(self) -> _Scorer:
        """COCO's mAP."""
        return _Scorer()

    def view(self, sample: Prompted) -> View:
        """The photograph with its annotated objects."""
        return View(sample.photo.image(), sample.photo.masks(), sample.photo.path.name)
