"""Pixels, boxes and sentences to network inputs, as the model families define them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]
Feeds = dict[str, Array]

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
    out: NDArray[np.float32] = (
        planes.astype(np.float32) / np.float32(255) - IMAGENET_MEAN[:, None, None]
    ) / IMAGENET_STD[:, None, None]
    return out


def longest_side(image: Array, size: int) -> Array:
    """RGB planes uint8 [3, h, w] of an image [H, W, 3] whose longer side is resized to ``size``."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new = int(width * scale + 0.5), int(height * scale + 0.5)
    if new != (width, height):
        image = np.asarray(Image.fromarray(image).resize(new, Image.Resampling.BILINEAR))
    return image.transpose(2, 0, 1)


def sam_input(planes: Array, size: int) -> NDArray[np.float32]:
    """Encoder input [1, 3, S, S] of planes up to that size: padded right and below, after normalisation."""
    image = np.zeros((1, 3, size, size), np.float32)
    image[0, :, : planes.shape[1], : planes.shape[2]] = sam_pixels(planes)
    return image


def box_feeds(embeddings: Array, boxes: Array) -> Feeds:
    """Decoder inputs of boxes [n, 4] in pixels of the encoder's input; no padding point, so seven tokens."""
    coords = np.ascontiguousarray(boxes, np.float32).reshape(-1, 2, 2)
    labels = np.tile(np.array([2.0, 3.0], np.float32), (len(coords), 1))
    return {"image_embeddings": embeddings, "point_coords": coords, "point_labels": labels}


def mask_box(mask: Array) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 of a mask that is not empty, all inclusive."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(cols[0]), int(rows[0]), int(cols[-1]), int(rows[-1])
