"""Real photographs with their objects, from the files to samples and scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxptq.datasets import zoo
from onnxptq.datasets.coco import Coco
from onnxptq.datasets.refcoco import RefCoco
from onnxptq.datasets.specs import open_named
from onnxptq.evaluate.predictors import SamPredictor
from onnxptq.evaluate.task import evaluate_task
from onnxptq.evaluate.tasks.refcoco import RefCocoSentences
from onnxptq.running.metrics import mask_iou
from onnxptq.running.sessions import session

COMPACT = (92, 93)
"""Categories rocket and eye."""
PHOTOS = Path(__file__).parents[1] / "data" / "photos"


class Knowing:
    """Answers with the true mask of the photograph's objects."""

    def __init__(self, data: RefCoco) -> None:
        self.truth = {one.text: one.mask() for one in data}

    def mask(self, image: np.ndarray, text: str) -> np.ndarray:
        return self.truth[text]


def test_masks_fit_their_boxes_and_areas() -> None:
    data = Coco.load(PHOTOS / "instances.json")
    assert [photo.path.name for photo in data] == ["chelsea.jpg", "coffee.jpg", "rocket.jpg"]
    assert sum(len(photo.instances) for photo in data) == 6
    for photo in data:
        assert photo.image().shape == (photo.height, photo.width, 3)
        for one, mask in zip(photo.instances, photo.masks(), strict=True):
            rows, columns = np.nonzero(mask)
            assert int(mask.sum()) == one.area
            assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == one.box


def test_objects_stand_out() -> None:
    """The outlines lie where the photograph says: the rocket is brighter than the sky, an eye greener than the cat."""
    photos = {photo.path.stem: photo for photo in Coco.load(PHOTOS / "instances.json")}
    rocket, sky = photos["rocket"].image(), photos["rocket"].masks()[0]
    assert rocket[sky].mean() > 2 * rocket[~sky].mean()
    cat, (whole, left, right) = photos["chelsea"].image().astype(float), photos["chelsea"].masks()
    blue = cat[..., 2] / cat.sum(-1)
    assert max(blue[left].mean(), blue[right].mean()) < blue[whole & ~left & ~right].mean() - 0.02


def test_sentences() -> None:
    data = RefCoco.load(PHOTOS, split="val")
    assert [one.text for one in data][:2] == ["the cat", "left eye"]
    found = evaluate_task(RefCocoSentences(data), {"knowing": Knowing(data)})
    assert found.rows[0].figures["OIoU"] == 100.0


@pytest.fixture(scope="module")
def encoder() -> Any:
    return session(zoo.path("sam-mini-encoder"), threads=1)


def test_samples_of_photographs(encoder: Any) -> None:
    inputs = {one.name: one.shape for one in encoder.get_inputs()}
    samples = list(open_named(f"sam:{PHOTOS / 'images'}", inputs, count=None, seed=0, start=lambda path: encoder))
    assert len(samples) == 3
    outputs = [encoder.run(None, sample)[0] for sample in samples]
    assert len({output.tobytes() for output in outputs}) == 3
    assert all(np.isfinite(output).all() and output.std() > 0.1 for output in outputs)


def test_the_embedded_sam_finds_compact_objects_of_photographs() -> None:
    """It was trained on drawn scenes: of the eyes and the rocket it finds the most, of the other objects less."""
    predictor = SamPredictor(zoo.path("sam-mini-encoder"), zoo.path("sam-mini-decoder"), threads=1)
    for photo in Coco.load(PHOTOS / "instances.json"):
        boxes = np.array([one.box for one in photo.instances], np.float32)
        overlaps = mask_iou(predictor.masks(photo.image(), boxes).masks, photo.masks())
        for one, overlap in zip(photo.instances, overlaps, strict=True):
            assert one.category not in COMPACT or overlap > 0.35
