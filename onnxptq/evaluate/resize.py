"""Bilinear resizing of float maps, as torch's `interpolate` defines it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def bilinear(maps: Array, height: int, width: int, *, align_corners: bool = False) -> Array:
    """Resize [..., h, w] to [..., height, width]."""
    h, w = maps.shape[-2:]
    if (h, w) == (height, width):
        return maps
    rows, cols = _weights(h, height, align_corners), _weights(w, width, align_corners)
    out: Array = rows @ maps.astype(np.float32, copy=False) @ cols.T
    return out


def nearest(image: Array, height: int, width: int) -> Array:
    """Nearest-neighbour resize of [h, w], each new pixel taking the old one that holds its centre."""
    h, w = image.shape
    rows = np.minimum(((np.arange(height) + 0.5) * (h / height)).astype(np.int64), h - 1)
    cols = np.minimum(((np.arange(width) + 0.5) * (w / width)).astype(np.int64), w - 1)
    out: Array = image[rows[:, None], cols[None]]
    return out


@lru_cache(maxsize=64)
def _weights(old: int, new: int, align_corners: bool) -> Array:
    """Interpolation matrix [new, old]."""
    if align_corners:
        place = np.arange(new) * ((old - 1) / (new - 1) if new > 1 else 0.0)
    else:
        place = np.maximum((np.arange(new) + 0.5) * (old / new) - 0.5, 0.0)
    low = np.minimum(place.astype(np.int64), old - 1)
    part = (place - low).astype(np.float32)
    out = np.zeros((new, old), np.float32)
    out[np.arange(new), low] = 1 - part
    out[np.arange(new), np.minimum(low + 1, old - 1)] += part
    return out
