"""Connected components of masks, by scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq.evaluate.extra import extra

Array = NDArray[Any]


def label(mask: Array) -> tuple[Array, int]:
    """Number every 8-connected component of a mask [H, W] from 1 on; the map and how many there are."""
    labels, count = extra("scipy.ndimage").label(mask, structure=np.ones((3, 3)))
    return labels, int(count)


def largest(mask: Array) -> Array:
    """The biggest component of a mask; a mask without one is returned unchanged."""
    labels, count = label(mask)
    if count < 2:
        return mask
    out: Array = labels == 1 + np.argmax(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    return out
