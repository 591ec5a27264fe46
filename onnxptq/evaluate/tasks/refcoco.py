"""Referring segmentation on RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

import numpy as np

from onnxptq.datasets.refcoco import Expression, RefCoco
from onnxptq.evaluate.overlap import RefScore
from onnxptq.evaluate.predictors import LavtPredictor, Masks
from onnxptq.evaluate.resize import nearest
from onnxptq.evaluate.task import Task, View


class _Scorer:
    def __init__(self) -> None:
        self.score = RefScore()

    def add(self, sample: Expression, found: Masks) -> None:
        """Masks are compared at the model's size, the truth resized to it, as LAVT's evaluation does."""
        height, width = found.masks.shape[1:]
        self.score.add(found.masks, nearest(sample.mask(), height, width)[None])

    def summary(self) -> dict[str, float]:
        """MIoU, OIoU, P@X."""
        return self.score.summary()


class RefCocoSentences(Task[Expression]):
    """Every sentence of every ref counts separately."""

    name, main = "refcoco", "MIoU"

    def __init__(self, data: RefCoco) -> None:
        """One split of one data set."""
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def sample(self, index: int) -> Expression:
        """A sentence, in the file's order."""
        return self.data.expressions[index]

    def predict(self, predictor: LavtPredictor, sample: Expression) -> Masks:
        """The one mask, at the model's size."""
        return Masks(predictor.mask(sample.photo.image(), sample.text)[None], np.ones(1, np.float32))

    def scorer(self) -> _Scorer:
        """MIoU, OIoU, P@X."""
        return _Scorer()

    def view(self, sample: Expression) -> View:
        """The photograph with the object meant."""
        return View(sample.photo.image(), sample.mask()[None], sample.text)
