"""Pixel values to network input, as the model families define it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SAM_MEAN = np.array([123.675, 116.28, 103.53], np.float32)
SAM_STD = np.array([58.395, 57.12, 57.375], np.float32)
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)


def sam_pixels(planes: NDArray[Any]) -> NDArray[np.float32]:
    """RGB planes [..., 3, H, W] in 0..255 to Segment Anything's input."""
    out: NDArray[np.float32] = (planes.astype(np.float32) - SAM_MEAN[:, None, None]) / SAM_STD[:, None, None]
    return out


def imagenet(planes: NDArray[Any]) -> NDArray[np.float32]:
    """RGB planes [..., 3, H, W] in 0..255 to the usual ImageNet normalisation, LAVT's too."""
    out: NDArray[np.float32] = (planes.astype(np.float32) / np.float32(255) - IMAGENET_MEAN[:, None, None]) / IMAGENET_STD[:, None, None]
    return out
