"""Connected components of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def label(mask: Array) -> tuple[Array, int]:
    """Number every 8-connected component of a mask [H, W] from 1 on, in reading order; the map and how many there
    are."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    row, first = np.nonzero(change == 1)
    _, past = np.nonzero(change == -1)
    root = _join(row, first, past)
    names, numbers = np.unique(root, return_inverse=True)
    out = np.zeros((height, width), np.int32)
    lengths = past - first
    inside = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    out[np.repeat(row, lengths), np.repeat(first, lengths) + inside] = np.repeat(numbers + 1, lengths)
    return out, len(names)


def _join(row: Array, first: Array, past: Array) -> Array:
    """Least run number of each run's component; runs touch if they lie in neighbouring rows and overlap or meet at a
    corner."""
    runs = len(row)
    span = int(past.max(initial=0)) + 2
    below = (row + 1) * span
    low = np.searchsorted(row * span + past, below + first, side="left")
    high = np.searchsorted(row * span + first, below + past, side="right")
    count = np.maximum(high - low, 0)
    one = np.repeat(np.arange(runs), count)
    other = np.repeat(low, count) + np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
    root = np.arange(runs)
    while True:
        least = np.minimum(root[one], root[other])
        if (root[one] == least).all() and (root[other] == least).all():
            return root
        np.minimum.at(root, root[one], least)
        np.minimum.at(root, root[other], least)
        while not np.array_equal(root, root[root]):
            root = root[root]


def largest(mask: Array) -> Array:
    """The biggest component of a mask; the mask itself where it has none."""
    labels, count = label(mask)
    if count < 2:
        return mask
    out: Array = labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    return out
