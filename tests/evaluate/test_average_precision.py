"""COCO's mAP: masks given to pycocotools directly, against the same results in files."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import pytest

from onnxptq.evaluate.average_precision import CocoAp

pytest.importorskip("pycocotools")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")


def scene(rng: np.random.RandomState, side: int) -> tuple[list[np.ndarray], list[int], list[bool]]:
    masks, labels, crowd = [], [], []
    for _ in range(rng.randint(0, 7)):
        mask = np.zeros((side, side), bool)
        x, y = rng.randint(0, side - 8, 2)
        w, h = rng.randint(3, side // 2, 2)
        mask[y : y + h, x : x + w] = True
        masks.append(mask)
        labels.append(int(rng.randint(1, 4)))
        crowd.append(bool(rng.rand() < 0.15))
    return masks, labels, crowd


def noisy(
    rng: np.random.RandomState, masks: list[np.ndarray], labels: list[int]
) -> tuple[list[np.ndarray], list[float], list[int]]:
    found, scores, names = [], [], []
    for mask, label in zip(masks, labels, strict=True):
        for _ in range(rng.randint(0, 4)):
            moved = np.roll(mask, tuple(rng.randint(-6, 7, 2)), (0, 1))
            found.append(moved & (rng.rand(*mask.shape) < rng.choice((1.0, 0.8))))
            scores.append(float(rng.choice((rng.rand(), 0.5))))
            names.append(label if rng.rand() < 0.8 else int(rng.randint(1, 4)))
    return found, scores, names


def coco_reference(
    images: list[dict[str, Any]], annotations: list[dict[str, Any]], results: list[dict[str, Any]]
) -> np.ndarray:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i, "name": str(i)} for i in (1, 2, 3)],
            "info": {},
        }
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


@pytest.mark.parametrize("seed", range(3))
def test_equal_to_results_read_as_files(seed: int) -> None:
    coding = pytest.importorskip("pycocotools.mask")
    rng, side = np.random.RandomState(seed), (60, 160, 260)[seed % 3]
    ap = CocoAp()
    images, annotations, results = [], [], []
    for number in range(1, 9):
        masks, labels, crowd = scene(rng, side)
        found, scores, names = noisy(rng, masks, labels)
        images.append({"id": number, "height": side, "width": side})
        areas = [int(m.sum()) for m in masks]
        for mask, label, is_crowd, area in zip(masks, labels, crowd, areas, strict=True):
            coded = coding.encode(np.asfortranarray(mask.astype(np.uint8)))
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": label, "segmentation": coded}
                | {"area": area, "bbox": [0, 0, 1, 1], "iscrowd": int(is_crowd)}
            )
        for mask, score, name in zip(found, scores, names, strict=True):
            coded = coding.encode(np.asfortranarray(mask.astype(np.uint8)))
            results.append({"image_id": number, "category_id": name, "segmentation": coded, "score": score})
        empty = np.zeros((0, side, side), bool)
        ap.add(
            np.stack(found) if found else empty,
            np.array(scores),
            np.array(names, int),
            np.stack(masks) if masks else empty,
            np.array(labels, int),
            np.array(areas, float),
            np.array(crowd, bool),
        )
    want = coco_reference(images, annotations, results)
    got = ap.summary()
    for name, value in zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), want[:6], strict=True):
        if value < 0:
            assert name not in got
        else:
            assert got[name] == pytest.approx(100 * value, abs=1e-9), name
    assert 1 < got["AP"] < 99, "the comparison must not be about nothing"


def test_perfect_and_empty() -> None:
    mask, none = np.zeros((1, 8, 8), bool), np.zeros((0, 8, 8), bool)
    mask[0, 2:6, 2:6] = True
    one = (np.array([1]), np.array([16.0]), np.array([False]))
    perfect, missed = CocoAp(), CocoAp()
    perfect.add(mask, np.array([0.3]), np.array([1]), mask, *one)
    assert perfect.summary() == pytest.approx({"AP": 100.0, "AP50": 100.0, "AP75": 100.0, "APs": 100.0})
    missed.add(none, np.zeros(0), np.zeros(0, int), mask, *one)
    assert missed.summary()["AP"] == 0
    assert CocoAp().summary() == {"AP": 0.0}


def test_at_most_a_hundred_detections_count() -> None:
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:6, 2:6] = True
    ap = CocoAp()
    wrong = np.zeros((100, 8, 8), bool)
    wrong[:, 0, 0] = True
    masks = np.concatenate([wrong, mask])
    scores = np.concatenate([np.ones(100), [0.5]])
    ap.add(masks, scores, np.ones(101, int), mask, np.array([1]), np.array([16.0]), np.array([False]))
    assert ap.summary()["AP"] == 0
