"""The zoo's own tasks: segmentation by boxes, and referring segmentation, on procedural scenes."""

from __future__ import annotations

import numpy as np

from onnxptq.datasets import zoo
from onnxptq.datasets.scenes import BENCHMARKS, SPLITS
from onnxptq.datasets.zoo import PromptSample, RefSample
from onnxptq.evaluate.overlap import MaskScore, RefScore
from onnxptq.evaluate.predictors import LavtPredictor, Masks, SamPredictor
from onnxptq.evaluate.task import Task, View


class _ByTruth:
    """Scores masks against a sample's own."""

    def __init__(self, score: MaskScore) -> None:
        self.score = score

    def add(self, sample: PromptSample | RefSample, found: Masks) -> None:
        """Pairs of masks, in order."""
        self.score.add(found.masks, sample.masks if isinstance(sample, PromptSample) else sample.mask[None])

    def summary(self) -> dict[str, float]:
        """The score's figures."""
        return self.score.summary()


class SceneBoxes(Task[PromptSample]):
    """Every object of a scene by its box."""

    name, main = "sam", "mIoU"

    def __init__(self, split: str = "val", count: int = 250, *, size: int = zoo.IMAGE_SIZE) -> None:
        """``count`` scenes of ``split`` at 128 or 256 pixels."""
        zoo.check_known("split", split, SPLITS)
        self.split, self.count, self.size = split, count, size

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> PromptSample:
        """A scene of the split."""
        return next(zoo.prompt_samples(self.split, 1, start=index, size=self.size))

    def predict(self, predictor: SamPredictor, sample: PromptSample) -> Masks:
        """Mask 0 of every box."""
        return predictor.masks(sample.image.transpose(1, 2, 0), sample.boxes)

    def scorer(self) -> _ByTruth:
        """Mean IoU, P@0.75, P@0.9."""
        return _ByTruth(MaskScore())

    def view(self, sample: PromptSample) -> View:
        """The scene with all its objects."""
        return View(np.ascontiguousarray(sample.image.transpose(1, 2, 0)), sample.masks)


class SceneRefs(Task[RefSample]):
    """One expression a scene."""

    name, main = "ris", "MIoU"

    def __init__(
        self, benchmark: str = "refscene", split: str = "val", count: int = 500, *, size: int = zoo.IMAGE_SIZE
    ) -> None:
        """``count`` sentences of one benchmark split."""
        zoo.check_known("split", split, SPLITS)
        zoo.check_known("benchmark", benchmark, BENCHMARKS)
        self.benchmark, self.split, self.count, self.size = benchmark, split, count, size

    def __len__(self) -> int:
        return self.count

    def sample(self, index: int) -> RefSample:
        """A sentence of the split."""
        return next(zoo.ref_samples(self.benchmark, self.split, 1, start=index, size=self.size))

    def predict(self, predictor: LavtPredictor, sample: RefSample) -> Masks:
        """The one mask."""
        return Masks(predictor.mask_of_planes(sample.image, sample.text)[None], np.ones(1, np.float32))

    def scorer(self) -> _ByTruth:
        """MIoU, OIoU, P@X."""
        return _ByTruth(RefScore())

    def view(self, sample: RefSample) -> View:
        """The scene with the object meant."""
        return View(np.ascontiguousarray(sample.image.transpose(1, 2, 0)), sample.mask[None], sample.text)
