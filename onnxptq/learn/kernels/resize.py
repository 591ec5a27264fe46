"""Resize: every mode is a matrix of weights [length after, length before] per axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = list[int]
Floats = list[float]
F64 = NDArray[np.float64]


@dataclass(frozen=True)
class _Axis:
    """The resampling of one axis."""

    axis: int
    before: int
    after: int
    scale: float
    start: float = 0.0
    end: float = 1.0


def Resize(
    x: Tensor,
    roi: Floats | None = None,
    scales: Floats | None = None,
    sizes: Ints | None = None,
    *,
    antialias: int = 0,
    axes: Ints | None = None,
    coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0,
    extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
    mode: str = "nearest",
    nearest_mode: str = "round_prefer_floor",
) -> Tensor:
    """Resample by weights of neighbours (``linear``, ``cubic``) or by the nearest element."""
    kernel = _cubic(cubic_coeff_a) if mode == "cubic" else _linear
    for one in _plan(x, roi, scales, sizes, axes, keep_aspect_ratio_policy):
        places = _places(one, coordinate_transformation_mode)
        if mode == "nearest":
            x = x.index_select(one.axis, torch.from_numpy(_nearest(places, one.before, nearest_mode)).to(x.device))
        else:
            weights = _weights(places, one, kernel, 2 if mode == "cubic" else 1, bool(antialias), bool(exclude_outside))
            x = torch.tensordot(x, torch.from_numpy(weights).to(x), ([one.axis], [1])).movedim(-1, one.axis)
        outside = (places < 0) | (places > one.before - 1)
        if coordinate_transformation_mode == "tf_crop_and_resize" and outside.any():
            shape = [-1 if i == one.axis else 1 for i in range(x.ndim)]
            x = torch.where(torch.from_numpy(outside).to(x.device).reshape(shape), extrapolation_value, x)
    return x


def _plan(
    x: Tensor, roi: Floats | None, scales: Floats | None, sizes: Ints | None, axes: Ints | None, policy: str
) -> list[_Axis]:
    """The resampling of each axis; unchanged axes are omitted."""
    chosen = [axis % x.ndim for axis in axes] if axes is not None else list(range(x.ndim))
    before = [x.shape[axis] for axis in chosen]
    if sizes:
        scales = [after / n for after, n in zip(sizes, before, strict=True)]
        if policy != "stretch":
            common = min(scales) if policy == "not_larger" else max(scales)
            scales, sizes = [common] * len(chosen), [math.floor(common * n + 0.5) for n in before]
    assert scales is not None
    after = sizes or [math.floor(scale * n) for scale, n in zip(scales, before, strict=True)]
    ends = list(zip(roi[: len(chosen)], roi[len(chosen) :], strict=True)) if roi else [(0.0, 1.0)] * len(chosen)
    planned = [_Axis(a, n, m, s, *e) for a, n, m, s, e in zip(chosen, before, after, scales, ends, strict=True)]
    return [one for one in planned if one.scale != 1 or (one.start, one.end) != (0, 1)]


def _places(one: _Axis, transformation: str) -> F64:
    """The position of each new element among the old ones."""
    new, length = np.arange(one.after, dtype=np.float64), one.scale * one.before
    match transformation:
        case "align_corners":
            return new * ((one.before - 1) / (length - 1) if length != 1 else 0)
        case "asymmetric":
            return new / one.scale
        case "tf_crop_and_resize":
            first, last = one.start * (one.before - 1), one.end * (one.before - 1)
            return first + new * (last - first) / (length - 1) if length != 1 else np.array([(first + last) / 2])
        case "half_pixel_symmetric":
            return one.before / 2 * (1 - one.after / length) + (new + 0.5) / one.scale - 0.5
        case "pytorch_half_pixel" if length == 1:
            return np.array([-0.5])
    placed: F64 = (new + 0.5) / one.scale - 0.5
    return placed


def _nearest(places: F64, before: int, mode: str) -> NDArray[np.int64]:
    """The old element for each position."""
    match mode:
        case "round_prefer_floor":
            places = np.ceil(places - 0.5)
        case "round_prefer_ceil":
            places = np.floor(places + 0.5)
        case "ceil":
            places = np.ceil(places)
    return np.clip(np.floor(places), 0, before - 1).astype(np.int64)


def _linear(distance: F64) -> F64:
    held: F64 = np.maximum(0.0, 1 - np.abs(distance))
    return held


def _cubic(a: float) -> Callable[[F64], F64]:
    def weight(distance: F64) -> F64:
        d = np.abs(distance)
        near, far = ((a + 2) * d - (a + 3)) * d**2 + 1, ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        held: F64 = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
        return held

    return weight


def _weights(places: F64, one: _Axis, kernel: Callable[[F64], F64], reach: int, antialias: bool, exclude: bool) -> F64:
    """The weight matrix; outside elements repeat the edge, or are excluded."""
    shrink = min(1.0, one.scale) if antialias else 1.0
    margin = math.ceil(reach / shrink) + 1
    old = np.arange(
        math.floor(min(places.min(), 0)) - margin, math.ceil(max(places.max(), one.before - 1)) + margin + 1
    )
    weights = kernel((places[:, None] - old) * shrink)
    if exclude:
        weights[:, (old < 0) | (old >= one.before)] = 0
    if antialias or exclude:
        weights /= weights.sum(axis=1, keepdims=True)
    edges: F64 = np.clip(old, 0, one.before - 1)[:, None] == np.arange(one.before)
    return weights @ edges
