"""Rotated rectangles: the smallest one around a mask, and their overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    return _smallest(hull(points))


def hull(points: Array) -> Array:
    """Convex hull of points [n, 2], counter-clockwise in a frame with y up, without repeated or straight corners."""
    ordered = np.unique(points, axis=0).tolist()
    if len(ordered) < 3:
        return np.array(ordered, np.float64)
    chains = []
    for sequence in (ordered, ordered[::-1]):
        chain: list[list[float]] = []
        for point in sequence:
            while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        chains.append(chain[:-1])
    return np.array(chains[0] + chains[1], np.float64)


def _smallest(corners: Array) -> Array:
    """The smallest enclosing rectangle of a convex polygon: one of its sides lies on a side of the polygon."""
    edges = np.roll(corners, -1, 0) - corners
    along = edges / np.linalg.norm(edges, axis=1, keepdims=True)
    across = np.stack([-along[:, 1], along[:, 0]], -1)
    u, v = along @ corners.T, across @ corners.T
    areas = (u.max(1) - u.min(1)) * (v.max(1) - v.min(1))
    k = int(np.argmin(areas))
    low, high = (u[k].min(), v[k].min()), (u[k].max(), v[k].max())
    frame = np.stack([along[k], across[k]])
    rectangle: Array = np.array([[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]]) @ frame
    return rectangle


def iou(one: Array, other: Array) -> float:
    """Overlap of two convex polygons [n, 2]."""
    first, second = _upright(one), _upright(other)
    shared = abs(area(_clip(first, second)))
    union = abs(area(first)) + abs(area(second)) - shared
    return float(shared / union) if union > 0 else 0.0


def area(polygon: Array) -> float:
    """Signed area of a polygon [n, 2]; positive counter-clockwise in a frame with y up."""
    if len(polygon) < 3:
        return 0.0
    x, y = polygon[:, 0], polygon[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _upright(polygon: Array) -> Array:
    return polygon if area(polygon) >= 0 else polygon[::-1]


def _clip(subject: Array, window: Array) -> Array:
    """The part of one convex polygon inside another: cut along each side of the window in turn."""
    points = [tuple(p) for p in subject.tolist()]
    sides = window.tolist()
    for start, end in zip(sides, [*sides[1:], sides[0]], strict=True):
        kept: list[Any] = []
        for here, there in zip(points, [*points[1:], *points[:1]], strict=True):
            a, b = _turn(start, end, here), _turn(start, end, there)
            if a >= 0:
                kept.append(here)
            if (a > 0 > b) or (a < 0 < b):
                part = a / (a - b)
                kept.append((here[0] + part * (there[0] - here[0]), here[1] + part * (there[1] - here[1])))
        points = kept
    return np.array(points, np.float64).reshape(-1, 2)


def _turn(a: Any, b: Any, c: Any) -> float:
    """Positive where c lies to the left of the way from a to b (y up)."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
