"""Tiny valid data sets in the real formats, and the folder of real samples where there is one."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def real() -> Path:
    """Real samples, which may not be redistributed: ONNXPTQ_SAMPLE_DATA, or shared/data beside the repository."""
    folder = Path(os.environ.get("ONNXPTQ_SAMPLE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real samples in {folder}")
    return folder


def picture(path: Path, height: int, width: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)


def annotation(number: int, image: int, category: int, box: list[int], **more: Any) -> dict[str, Any]:
    x, y, w, h = box
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    entry = {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": 0}
    return entry | {"segmentation": [polygon]} | more


@pytest.fixture
def coco_data() -> dict[str, Any]:
    """Two images, three objects, one crowd."""
    crowd = {"size": [40, 60], "counts": [0, 400, 2000]}
    return {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 40, "width": 60},
            {"id": 2, "file_name": "b.png", "height": 30, "width": 30},
        ],
        "annotations": [
            annotation(11, 1, 3, [5, 5, 20, 10]),
            annotation(12, 1, 7, [30, 10, 20, 25]),
            annotation(13, 1, 3, [0, 0, 10, 40], segmentation=crowd, iscrowd=1, area=400),
            annotation(21, 2, 7, [2, 3, 12, 9]),
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }


@pytest.fixture
def coco_folder(tmp_path: Path, coco_data: dict[str, Any]) -> Path:
    (tmp_path / "instances.json").write_text(json.dumps(coco_data))
    picture(tmp_path / "images" / "a.png", 40, 60)
    picture(tmp_path / "images" / "b.png", 30, 30, 1)
    return tmp_path


def ref(number: int, ann: int, image: int, split: str, *texts: str) -> dict[str, Any]:
    sentences = [
        {"sent_id": 10 * number + i, "sent": t.lower(), "raw": t, "tokens": t.split()} for i, t in enumerate(texts)
    ]
    return {
        "ref_id": number,
        "ann_id": ann,
        "image_id": image,
        "category_id": 3,
        "split": split,
        "file_name": "x",
        "sentences": sentences,
    }


@pytest.fixture
def refs() -> list[dict[str, Any]]:
    return [
        ref(0, 11, 1, "val", "The left Cat", "cat"),
        ref(1, 12, 1, "testA", "dog"),
        ref(2, 21, 2, "val", "small dog"),
    ]


@pytest.fixture
def refcoco_folder(coco_folder: Path, refs: list[dict[str, Any]]) -> Path:
    (coco_folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
    return coco_folder


@pytest.fixture
def ade_folder(tmp_path: Path) -> Path:
    labels = np.zeros((24, 32), np.uint8)
    labels[:12] = 3
    labels[14:20, 5:15] = 17
    for split in ("validation", "training"):
        for name in ("x_1", "x_2"):
            picture(tmp_path / "images" / split / f"{name}.jpg", 24, 32)
            for kind in ("annotations", "predictions"):
                (tmp_path / kind / split).mkdir(parents=True, exist_ok=True)
                Image.fromarray(labels).save(tmp_path / kind / split / f"{name}.png")
    return tmp_path


DOTA_TEXT = """imagesource:GoogleEarth
gsd:0.25
10 10 30 10 30 20 10 20 ship 0
40.5 40 50 45 45 55 35.5 50 plane 1
"""


@pytest.fixture
def dota_folder(tmp_path: Path) -> Path:
    picture(tmp_path / "images" / "P1.png", 80, 100)
    (tmp_path / "labelTxt").mkdir()
    (tmp_path / "labelTxt" / "P1.txt").write_text(DOTA_TEXT)
    (tmp_path / "labelTxt" / "P9.txt").write_text(DOTA_TEXT)
    return tmp_path
