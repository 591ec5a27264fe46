"""Signed distances to the outlines of the ten shapes.

Each function takes local coordinates (y down) and the nominal radius and returns about the signed distance to the
outline in pixels, negative inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from onnxptq.datasets.scenes.types import Array

_PENTA = [(math.cos(math.radians(a)), math.sin(math.radians(a))) for a in (-90, -18, 54, 126, 198)]


def _circle(x: Array, y: Array, r: np.float32) -> Array:
    distance: Array = np.sqrt(x * x + y * y) - 0.95 * r
    return distance


def _square(x: Array, y: Array, r: np.float32) -> Array:
    distance: Array = np.maximum(np.abs(x), np.abs(y)) - 0.82 * r
    return distance


def _triangle(x: Array, y: Array, r: np.float32) -> Array:
    distance: Array = np.maximum(np.abs(x) * 0.8660254 - 0.5 * y, y) - 0.575 * r
    return distance


def _star(x: Array, y: Array, r: np.float32) -> Array:
    # inside a pentagram: within at least four of its five half-planes, so take the second largest
    first = x * np.float32(_PENTA[0][0]) + y * np.float32(_PENTA[0][1])
    second = np.full_like(first, -1e9)
    for c, s in _PENTA[1:]:
        d = x * np.float32(c) + y * np.float32(s)
        second = np.maximum(second, np.minimum(first, d))
        first = np.maximum(first, d)
    distance: Array = second - 0.309 * 1.32 * r
    return distance


def _ring(x: Array, y: Array, r: np.float32) -> Array:
    distance: Array = np.abs(np.sqrt(x * x + y * y) - 0.70 * r) - 0.25 * r
    return distance


def _cross(x: Array, y: Array, r: np.float32) -> Array:
    x, y = np.abs(x), np.abs(y)
    distance: Array = np.minimum(np.maximum(x - 0.95 * r, y - 0.33 * r), np.maximum(x - 0.33 * r, y - 0.95 * r))
    return distance


def _hexagon(x: Array, y: Array, r: np.float32) -> Array:
    x, y = np.abs(x), np.abs(y)
    distance: Array = np.maximum(y, 0.8660254 * x + 0.5 * y) - 0.86 * r
    return distance


def _heart(x: Array, y: Array, r: np.float32) -> Array:
    h = 0.58 * r
    y = y - 0.085 * r
    u, v = (x + y) * 0.70710678, (y - x) * 0.70710678
    lobes = np.minimum((u + h) ** 2 + v * v, u * u + (v + h) ** 2)
    distance: Array = np.minimum(np.maximum(np.abs(u), np.abs(v)), np.sqrt(lobes)) - h
    return distance


def _crescent(x: Array, y: Array, r: np.float32) -> Array:
    x = x - 0.2 * r
    distance: Array = np.maximum(np.sqrt(x * x + y * y) - 0.95 * r, 0.80 * r - np.sqrt((x - 0.44 * r) ** 2 + y * y))
    return distance


def _diamond(x: Array, y: Array, r: np.float32) -> Array:
    a, b = 0.64 * r, 1.08 * r
    distance: Array = (np.abs(x) / a + np.abs(y) / b - 1) * (a * b / math.hypot(a, b))
    return distance


OUTLINES: dict[str, Callable[[Array, Array, np.float32], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "hexagon": _hexagon,
    "heart": _heart,
    "crescent": _crescent,
    "diamond": _diamond,
}
"""Shape name to distance function."""
