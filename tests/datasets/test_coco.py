"""COCO instances and results: fields read, and one sentence for every malformed file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxptq.datasets.coco import Coco
from onnxptq.errors import InputError


def test_objects_are_read(coco_folder: Path) -> None:
    data = Coco.load(coco_folder / "instances.json")
    first, second = data.photos
    assert dict(data.categories) == {3: "cat", 7: "dog"}
    assert [i.crowd for i in first.instances] == [False, False, True]
    assert second.instances[0].box == (2, 3, 14, 12)
    masks = first.masks()
    assert masks.shape == (3, 40, 60)
    assert masks.sum((1, 2)).tolist() == [200, 500, 400]
    assert masks[2][:, :10].all()
    assert first.image().shape == (40, 60, 3)


def test_an_image_without_objects(coco_folder: Path, coco_data: dict[str, Any]) -> None:
    coco_data["annotations"] = coco_data["annotations"][:3]
    (coco_folder / "instances.json").write_text(json.dumps(coco_data))
    assert Coco.load(coco_folder / "instances.json").photos[1].masks().shape == (0, 30, 30)


def test_images_elsewhere(coco_folder: Path) -> None:
    (coco_folder / "images").rename(coco_folder / "pictures")
    with pytest.raises(InputError, match=r"image a\.png is not in"):
        Coco.load(coco_folder / "instances.json")
    assert len(Coco.load(coco_folder / "instances.json", coco_folder / "pictures").photos) == 2


def change(path: list[Any], value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(data: dict[str, Any]) -> None:
        target: Any = data
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change(["images"], {}), "no list 'images'"),
        (change(["annotations", 0, "category_id"], 9), "annotation 11 has category 9"),
        (change(["annotations", 0, "image_id"], 99), "annotations of image 99"),
        (change(["annotations", 0, "bbox"], [1, 2, -3, 4]), r"no COCO instances file: box \[1, 2, -3, 4\]"),
        (change(["annotations", 0, "bbox"], None), "no COCO instances file"),
        (change(["annotations", 0], {"id": 1}), "no 'image_id'|no 'category_id'"),
        (change(["images", 0, "file_name"], "sub/missing.png"), "missing.png is not in"),
        (change(["images", 0, "file_name"], "../missing.png"), "no place inside the image folder"),
        (change(["images", 0, "file_name"], "sub\\..\\..\\a.png"), "no place inside the image folder"),
        (change(["images", 0, "file_name"], "/etc/passwd"), "no place inside the image folder"),
        (change(["images", 0, "file_name"], "x" * 5000), "cannot be read"),
        (change(["images", 0, "file_name"], "a\0.png"), "is not in"),
        (change(["images", 0, "height"], 2**40), "is not between 1 and"),
        (change(["images", 0, "width"], 0), "is not between 1 and"),
        (change(["images", 0, "id"], 1.5), "1.5 is not a whole number"),
        (change(["images", 0, "id"], 1e999), "not valid JSON: Infinity"),
        (change(["annotations", 0, "area"], float("nan")), "not valid JSON: NaN"),
        (change(["annotations", 0, "area"], "big"), "'big' is not a finite number"),
        (change(["annotations", 0, "bbox"], [10**400, 1, 1, 1]), "is not a finite number"),
        (change(["annotations", 0, "id"], 2**64), "is not between"),
    ],
)
def test_malformed_annotations(
    coco_folder: Path, coco_data: dict[str, Any], spoil: Callable[[dict[str, Any]], None], message: str
) -> None:
    spoil(coco_data)
    file = coco_folder / "instances.json"
    file.write_text(json.dumps(coco_data))
    with pytest.raises(InputError, match=message) as error:
        Coco.load(file)
    assert "instances.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_mask_of_another_size_names_its_annotation(coco_folder: Path, coco_data: dict[str, Any]) -> None:
    coco_data["annotations"][2]["segmentation"]["size"] = [60, 40]
    (coco_folder / "instances.json").write_text(json.dumps(coco_data))
    with pytest.raises(InputError, match=r"annotation 13: mask of size \[60, 40\], but its image is \[40, 60\]"):
        Coco.load(coco_folder / "instances.json").photos[0].masks()


def test_image_of_another_size(coco_folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(coco_folder / "images" / "a.png")
    with pytest.raises(InputError, match=r"a\.png: is 9 x 9, but .*instances\.json says 60 x 40"):
        Coco.load(coco_folder / "instances.json").photos[0].image()


def test_damaged_files(coco_folder: Path) -> None:
    (coco_folder / "images" / "a.png").write_bytes(b"not an image")
    with pytest.raises(InputError, match=r"a\.png: cannot be read"):
        Coco.load(coco_folder / "instances.json").photos[0].image()
    (coco_folder / "instances.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        Coco.load(coco_folder / "instances.json")
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        Coco.load(coco_folder / "none.json")


def test_detections_are_sorted(coco_folder: Path) -> None:
    results = [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 5, 5], "score": s} for s in (0.2, 0.9)]
    (coco_folder / "results.json").write_text(json.dumps(results))
    found = Coco.load(coco_folder / "instances.json").detections(coco_folder / "results.json")
    assert [d.score for d in found[1]] == [0.9, 0.2]
    assert found[1][0].box == (0, 0, 5, 5)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "score": 1}, "image 5"),
        ({"image_id": 1, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 1}, "category 5"),
        ({"image_id": 1, "category_id": 3, "bbox": [0, 0, 1], "score": 1}, "without usable"),
        ({"image_id": 1, "category_id": 3}, "without usable"),
        (None, "without usable"),
    ],
)
def test_malformed_detections(coco_folder: Path, entry: Any, message: str) -> None:
    (coco_folder / "results.json").write_text(json.dumps([entry]))
    with pytest.raises(InputError, match=message):
        Coco.load(coco_folder / "instances.json").detections(coco_folder / "results.json")


def test_real_photographs(real: Path) -> None:
    data = Coco.load(real / "coco48" / "instances.json")
    assert len(data.photos) == 48
    assert sum(len(p.instances) for p in data) == 445
    for photo in data.photos[:6]:
        assert photo.image().shape[:2] == (photo.height, photo.width)
        for one, mask in zip(photo.instances, photo.masks(), strict=True):
            assert abs(int(mask.sum()) - one.area) <= 0.05 * one.area + 40
            if one.area < 400:
                continue
            rows, cols = np.nonzero(mask)
            assert np.allclose([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1], one.box, atol=2.5)
