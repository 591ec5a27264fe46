"""COCO's mask encodings: run lengths, plain or compressed to text, and polygons, rasterised as COCO's own tools do.

Runs go down the columns and begin with background. A polygon's outline is drawn at five times the resolution; where it
crosses a pixel column, the column's pixels change sides, so that a running parity over the columns fills the shape.

pycocotools is not used here: annotation files are untrusted, and a polygon with a coordinate of 1e9 or NaN ends the
process in its C code. The tests compare masks with those of pycocotools.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import InputError

Mask = NDArray[np.bool_]
_FINE = 5
LONGEST = 2**23
"""Fine pixels of the longest outline that is drawn: some 1,600,000 pixels around one object."""


def decode(segmentation: Any, height: int, width: int, where: str) -> Mask:
    """Mask [H, W] of a `segmentation` field: polygons, run lengths, or compressed run lengths."""
    if isinstance(segmentation, Mapping):
        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, Sequence) or list(size) != [height, width]:
            raise InputError(f"{where}: mask of size {size}, but its image is {[height, width]} (height, width)")
        if isinstance(counts, (str, bytes)):
            counts = uncompress(counts, where)
        return from_counts(counts, height, width, where)
    if not isinstance(segmentation, Sequence) or isinstance(segmentation, str):
        raise InputError(f"{where}: segmentation is {type(segmentation).__name__}; expected polygons or run lengths")
    mask = np.zeros((height, width), np.bool_)
    for polygon in segmentation:
        mask |= from_polygon(polygon, height, width, where)
    return mask


def from_counts(counts: Any, height: int, width: int, where: str) -> Mask:
    """Mask of plain run lengths."""
    try:
        runs = np.asarray(counts, np.int64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: run lengths are not numbers") from None
    total = sum(runs.tolist()) if runs.ndim == 1 else -1  # in Python, whose sums do not wrap
    if total != height * width or (runs < 0).any():
        raise InputError(f"{where}: run lengths add up to {total}, not to {height} x {width} pixels")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(width, height).T


def uncompress(text: str | bytes, where: str) -> list[int]:
    """Run lengths of COCO's text form: six bits a character from '0' on; every run after the third is a difference."""
    data = text.encode("ascii", "replace") if isinstance(text, str) else text
    counts: list[int] = []
    value, shift = 0, 0
    for byte in data:
        digit = byte - 48
        if not 0 <= digit < 64:
            raise InputError(f"{where}: compressed run lengths hold the character {chr(byte)!r}")
        value |= (digit & 31) << shift
        shift += 5
        if shift > 60:
            raise InputError(f"{where}: a compressed run length has more than 60 bits")
        if digit & 32:
            continue
        if digit & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value, shift = 0, 0
    if shift:
        raise InputError(f"{where}: compressed run lengths end in the middle of a number")
    return counts


def from_polygon(polygon: Any, height: int, width: int, where: str) -> Mask:
    """Mask of one polygon x0, y0, x1, y1, ... in pixels."""
    try:
        points = np.asarray(polygon, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{where}: a polygon is not a list of numbers") from None
    if points.ndim != 1 or points.size < 6 or points.size % 2 or not np.isfinite(points).all():
        raise InputError(f"{where}: a polygon has {points.size} coordinates; expected x, y of at least three corners")
    with np.errstate(over="ignore", invalid="ignore"):
        fine = points.reshape(-1, 2) * _FINE
        length = np.abs(fine - np.roll(fine, 1, axis=0)).max(axis=1).sum() + len(fine)
    if not length <= LONGEST or np.abs(fine).max() > 2**52:
        raise InputError(
            f"{where}: a polygon's outline is {length / _FINE:.0f} pixels long, in an image of {width} x {height}"
        )
    corners = np.trunc(fine + 0.5).astype(np.int64)
    x, y = _outline(np.vstack([corners, corners[:1]]))
    moved = np.flatnonzero(x[1:] != x[:-1])
    column = (np.minimum(x[moved], x[moved + 1]) + 0.5) / _FINE - 0.5
    row = np.ceil(np.clip((np.minimum(y[moved], y[moved + 1]) + 0.5) / _FINE - 0.5, 0, height)).astype(np.int64)
    at_centre = (np.floor(column) == column) & (column >= 0) & (column <= width - 1)
    changes = np.bincount(column[at_centre].astype(np.int64) * height + row[at_centre], minlength=height * width + 1)
    inside = np.cumsum(changes[: height * width]) % 2 == 1
    mask: Mask = inside.reshape(width, height).T
    return mask


def _outline(corners: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Fine pixels along a closed outline: every step along the longer direction of each edge, the other one rounded.

    Edges are always walked from the lower coordinate, so that both directions of an edge give the same pixels.
    """
    xs, ys = [], []
    for (x0, y0), (x1, y1) in zip(corners[:-1].tolist(), corners[1:].tolist(), strict=True):
        wide, tall = abs(x1 - x0), abs(y1 - y0)
        flip = x0 > x1 if wide >= tall else y0 > y1
        (ax, ay), (bx, by) = ((x1, y1), (x0, y0)) if flip else ((x0, y0), (x1, y1))
        step = np.arange(max(wide, tall) + 1)
        if wide >= tall:
            slope = (by - ay) / wide if wide else 0.0
            x, y = ax + step, np.trunc(ay + slope * step + 0.5).astype(np.int64)
        else:
            slope = (bx - ax) / tall
            x, y = np.trunc(ax + slope * step + 0.5).astype(np.int64), ay + step
        xs.append(x[::-1] if flip else x)
        ys.append(y[::-1] if flip else y)
    return np.concatenate(xs), np.concatenate(ys)
