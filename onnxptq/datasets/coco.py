"""COCO instances: photographs, boxes and masks, and detection results in COCO's json layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.datasets.files import find_image, require_folder
from onnxptq.datasets.images import PIXELS, read_image
from onnxptq.datasets.rle import Mask, decode
from onnxptq.errors import InputError
from onnxptq.files import finite, read_json, reading, whole


@dataclass(frozen=True)
class Instance:
    """One annotated object. `area` is the annotation's own, which decides COCO's size classes."""

    id: int
    category: int
    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    area: float
    crowd: bool
    segmentation: Any

    def mask(self, height: int, width: int, where: str) -> Mask:
        """Pixels of the object."""
        return decode(self.segmentation, height, width, f"{where}: annotation {self.id}")


@dataclass(frozen=True)
class Detection:
    """A box found by a detector."""

    category: int
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Photo:
    """One image with its objects."""

    id: int
    path: Path
    height: int
    width: int
    instances: tuple[Instance, ...]
    source: str

    def image(self) -> NDArray[np.uint8]:
        """RGB pixels [H, W, 3]; their size must be the annotations'."""
        pixels = read_image(self.path)
        if pixels.shape[:2] != (self.height, self.width):
            raise InputError(
                f"image {self.path}: is {pixels.shape[1]} x {pixels.shape[0]}, but {self.source} says {self.width} x "
                f"{self.height}"
            )
        return pixels

    def masks(self) -> NDArray[np.bool_]:
        """Masks of all its objects [n, H, W]."""
        found = [one.mask(self.height, self.width, self.source) for one in self.instances]
        return np.stack(found) if found else np.zeros((0, self.height, self.width), np.bool_)


@dataclass(frozen=True)
class Coco:
    """Images with objects, in annotation order."""

    photos: tuple[Photo, ...]
    categories: Mapping[int, str]

    @classmethod
    def load(cls, annotations: str | Path, images: str | Path | None = None) -> Coco:
        """Read an instances file; images lie in ``images``, by default the folder `images` beside it or its own
        folder."""
        path = Path(annotations)
        folders = [require_folder(Path(images), "images")] if images else [path.parent / "images", path.parent]
        return cls.from_data(read_json(path), path, folders)

    @classmethod
    def from_data(cls, data: Any, path: Path, folders: Sequence[Path]) -> Coco:
        """``load`` of a file's content, ``path`` being its name in messages."""
        for key in ("images", "annotations", "categories"):
            if not isinstance(data, dict) or not isinstance(data.get(key), list):
                raise InputError(f"{path}: no list '{key}'; expected a COCO instances file")
        with reading(path, "is no COCO instances file"):
            categories = {whole(c["id"]): str(c["name"]) for c in data["categories"]}
            objects: dict[int, list[Instance]] = {}
            for a in data["annotations"]:
                objects.setdefault(whole(a["image_id"]), []).append(_instance(a, categories, path))
            photos = tuple(_photo(i, folders, objects, path) for i in data["images"])
        strangers = set(objects) - {p.id for p in photos}
        if strangers:
            raise InputError(f"{path}: annotations of image {min(strangers)}, which is not in its list 'images'")
        return cls(photos, categories)

    def __iter__(self) -> Iterator[Photo]:
        return iter(self.photos)

    def detections(self, results: str | Path) -> dict[int, list[Detection]]:
        """Boxes of a COCO results file by image, best first."""
        path = Path(results)
        data = read_json(path)
        if not isinstance(data, list):
            raise InputError(f"{path}: expected a list of detections (COCO results), found {type(data).__name__}")
        known = {p.id for p in self.photos}
        found: dict[int, list[Detection]] = {}
        for entry in data:
            with reading(path, "a detection without usable image_id, category_id, bbox or score"):
                image, category = whole(entry["image_id"]), whole(entry["category_id"])
                detection = Detection(category, _box(entry["bbox"]), finite(entry["score"]))
            if image not in known:
                raise InputError(f"{path}: a detection of image {image}, which the annotations do not have")
            if category not in self.categories:
                raise InputError(f"{path}: a detection of category {category}, which the annotations do not have")
            found.setdefault(image, []).append(detection)
        return {image: sorted(some, key=lambda d: -d.score) for image, some in found.items()}


def _instance(a: Mapping[str, Any], categories: Mapping[int, str], path: Path) -> Instance:
    category = whole(a["category_id"])
    if category not in categories:
        raise InputError(f"{path}: annotation {a['id']} has category {category}, which is not in its list 'categories'")
    return Instance(
        whole(a["id"]), category, _box(a["bbox"]), finite(a["area"]), bool(a.get("iscrowd", 0)), a["segmentation"]
    )


def _photo(i: Mapping[str, Any], folders: Sequence[Path], objects: Mapping[int, list[Instance]], path: Path) -> Photo:
    number, name = whole(i["id"]), str(i["file_name"])
    height, width = whole(i["height"], least=1, most=PIXELS), whole(i["width"], least=1, most=PIXELS)
    if height * width > PIXELS:
        raise ValueError(f"image {name} of {width} x {height}; at most {PIXELS} pixels are read")
    file = find_image(folders, [name, Path(name).name], str(path))
    return Photo(number, file, height, width, tuple(objects.get(number, ())), str(path))


def _box(values: Any) -> tuple[float, float, float, float]:
    """x, y, width, height to corners."""
    x, y, w, h = (finite(v) for v in values)
    if not np.isfinite([x, y, w, h]).all() or w < 0 or h < 0:
        raise ValueError(f"box {values}")
    return x, y, x + w, y + h
