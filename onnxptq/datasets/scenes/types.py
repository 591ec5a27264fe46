"""Names, sizes and the frozen records of objects, scenes and expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIZE = 256
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "hexagon", "heart", "crescent", "diamond")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink", "brown", "white", "black")
PATTERNS = ("solid", "striped", "dotted", "checkered")
SIZES = ("small", "large")
SPLITS = ("train", "val", "testA", "testB")
BENCHMARKS = ("refscene", "refscene+", "refscene-g")
MAX_PIECES = 18  # WordPiece budget of an expression: 20 tokens less [CLS] and [SEP]
MAX_OBJECTS = 10

Form = tuple[Any, ...]
"""Logical form of an expression, a nested tuple (`semantics.resolve`)."""

Array = NDArray[Any]


@dataclass(frozen=True)
class SceneObject:
    """One object; `cx, cy, box, area` describe its visible part."""

    index: int
    shape: str
    color: str
    size: str
    pattern: str
    rotation: float
    radius: float
    cx: float
    cy: float
    box: tuple[int, int, int, int]  # x0, y0, x1, y1; x1, y1 exclusive
    area: int
    visible: float  # visible fraction of the full silhouette
    hides: tuple[tuple[int, int], ...]  # (index of an object behind, pixels covered)


@dataclass(frozen=True)
class Scene:
    """Pixels, id map and objects of one seed."""

    seed: int
    planes: Array  # uint8 [3, 256, 256], RGB
    idmap: Array  # uint8 [256, 256], 0 = background, i + 1 = objects[i]
    objects: tuple[SceneObject, ...]

    @property
    def image(self) -> Array:
        """uint8 [256, 256, 3], RGB."""
        return np.ascontiguousarray(self.planes.transpose(1, 2, 0))

    def mask(self, index: int) -> Array:
        """Visible mask of one object, bool [256, 256]."""
        visible: Array = self.idmap == index + 1
        return visible

    @property
    def masks(self) -> Array:
        """Visible masks of all objects, bool [n, 256, 256]."""
        return np.stack([self.mask(o.index) for o in self.objects])


@dataclass(frozen=True)
class Ref:
    """A referring expression; `form` is its meaning (see `resolve`)."""

    text: str
    form: Form
    kind: str
    target: int
