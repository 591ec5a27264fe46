"""Rotated rectangles, by shapely: the smallest one around a mask, and the overlap of two."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.evaluate.extra import extra

Array = NDArray[Any]


def around(mask: Array) -> Array | None:
    """Corners [4, 2] (x, y, in order) of the smallest rectangle that holds every pixel of a mask; None for an empty
    mask."""
    rows, columns = np.flatnonzero(mask.any(1)), mask.any(0)
    if not len(rows) or not columns.any():
        return None
    left = mask[rows].argmax(1)
    right = mask.shape[1] - mask[rows, ::-1].argmax(1)
    points = np.concatenate([np.stack([x, y], -1) for x in (left, right) for y in (rows, rows + 1)]).astype(np.float64)
    shapely = extra("shapely")
    corners: Array = shapely.get_coordinates(shapely.minimum_rotated_rectangle(shapely.multipoints(points)))[:4]
    return corners


def iou(one: Array, other: Array) -> float:
    """Overlap of the convex hulls of two polygons [n, 2]."""
    shapely = extra("shapely")
    first, second = (shapely.convex_hull(shapely.multipoints(corners)) for corners in (one, other))
    shared = float(shapely.area(shapely.intersection(first, second)))
    union = float(shapely.area(first) + shapely.area(second)) - shared
    return shared / union if union > 0 else 0.0
