"""Oriented detection on DOTA: prompt with the true horizontal box, answer with the smallest rectangle of SAM's mask.

Images larger than a tile are cut into tiles, as is usual for DOTA; every object belongs to the tile that holds most of
it, and in a tie to the one with the nearest centre.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.datasets.dota import Aerial, Dota, Oriented
from onnxptq.evaluate.components import largest
from onnxptq.evaluate.predictors import Masks, SamPredictor
from onnxptq.evaluate.rectangles import around
from onnxptq.evaluate.rotated_precision import Found, RotatedAp
from onnxptq.evaluate.task import Task, View, stacked

Array = NDArray[Any]


@dataclass(frozen=True)
class Tile:
    """A part of an image, and the objects that belong to it."""

    name: str
    image: Array
    x: int
    y: int
    objects: tuple[Oriented, ...]

    @property
    def boxes(self) -> Array:
        """Horizontal boxes [n, 4] in the tile, clipped to it."""
        height, width = self.image.shape[:2]
        boxes = np.array([o.box for o in self.objects], np.float32).reshape(-1, 4) - np.array(
            [self.x, self.y] * 2, np.float32
        )
        out: Array = boxes.clip(0, np.array([width - 1, height - 1] * 2, np.float32))
        return out


class _Scorer:
    def __init__(self) -> None:
        self.ap = RotatedAp()

    def add(self, sample: Tile, found: Masks) -> None:
        """Rectangles go back to the whole image's coordinates; an empty mask is a missed object."""
        for one, mask, score in zip(sample.objects, found.masks, found.scores, strict=True):
            self.ap.add_truth(one.category, sample.name, one.corners, one.difficult)
            corners = around(largest(mask))
            if corners is not None:
                self.ap.add(one.category, Found(sample.name, corners + np.array([sample.x, sample.y]), float(score)))

    def summary(self) -> dict[str, float]:
        """Rotated mAP."""
        return self.ap.summary()


class DotaRectangles(Task[Tile]):
    """Rotated mAP."""

    name, main = "dota", "mAP50"

    def __init__(self, data: Dota, *, tile: int = 1024, overlap: int = 200) -> None:
        """Tiles of ``tile`` pixels that share ``overlap`` pixels with their neighbours."""
        self.data, self.tile, self.overlap = data, tile, overlap
        self._open: tuple[str, Array] = "", np.zeros((0, 0, 3), np.uint8)
        self._parts = [(image, part) for image in data for part in self._split(image)]

    def __len__(self) -> int:
        return len(self._parts)

    def sample(self, index: int) -> Tile:
        """A tile with objects, image by image; an image is read once for all its tiles in a row."""
        image, (x, y, objects) = self._parts[index]
        if image.name != self._open[0]:
            self._open = image.name, image.image()
        return Tile(image.name, self._open[1][y : y + self.tile, x : x + self.tile], x, y, objects)

    def predict(self, predictor: SamPredictor, sample: Tile) -> Masks:
        """Mask 0 of every box."""
        return predictor.masks(sample.image, sample.boxes)

    def scorer(self) -> _Scorer:
        """Rotated mAP."""
        return _Scorer()

    def view(self, sample: Tile) -> View:
        """The tile; true shapes are rectangles, not masks, so none are drawn."""
        return View(sample.image, stacked([], *sample.image.shape[:2]), sample.name)

    def _split(self, image: Aerial) -> list[tuple[int, int, tuple[Oriented, ...]]]:
        height, width = image.image().shape[:2]
        corners = [
            (x, y) for y in _starts(height, self.tile, self.overlap) for x in _starts(width, self.tile, self.overlap)
        ]
        members: dict[tuple[int, int], list[Oriented]] = {}
        for one in image.objects:
            members.setdefault(max(corners, key=lambda c: _fit(one.box, c, self.tile)), []).append(one)
        return [(x, y, tuple(members[x, y])) for x, y in corners if (x, y) in members]


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side; the last one ends with the image."""
    if size <= tile:
        return [0]
    step = tile - overlap
    return sorted({*range(0, size - tile, step), size - tile})


def _fit(box: tuple[float, float, float, float], corner: tuple[int, int], tile: int) -> tuple[float, float]:
    """Share of a box inside a tile, then the closeness of their centres."""
    x0, y0 = max(box[0], corner[0]), max(box[1], corner[1])
    x1, y1 = min(box[2], corner[0] + tile), min(box[3], corner[1] + tile)
    held = max(x1 - x0, 0.0) * max(y1 - y0, 0.0)
    dx, dy = (box[0] + box[2]) / 2 - corner[0] - tile / 2, (box[1] + box[3]) / 2 - corner[1] - tile / 2
    return held, -(dx * dx + dy * dy)
