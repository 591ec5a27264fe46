"""Pictures of masks: one panel for the truth and one for each model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from onnxptq.evaluate.predictors import Masks
from onnxptq.evaluate.resize import nearest
from onnxptq.evaluate.task import View

Array = NDArray[Any]

COLORS = np.array(
    [
        [230, 57, 70],
        [29, 143, 225],
        [42, 181, 110],
        [244, 162, 28],
        [153, 88, 214],
        [0, 176, 185],
        [236, 98, 173],
        [150, 150, 40],
    ],
    np.float32,
)
_BAR = 18


def overlay(image: Array, masks: Array, *, strength: float = 0.45) -> Array:
    """Masks [n, H, W] tinted over an image [H, W, 3] whose rest is greyed, each with a bright outline."""
    out = image.astype(np.float32)
    rest = ~masks.any(0) if len(masks) else np.zeros(image.shape[:2], np.bool_)
    out[rest] = 0.35 * out[rest] + 0.4 * out[rest].mean(-1, keepdims=True) + 40
    for k, mask in enumerate(masks):
        out[mask] += strength * (COLORS[k % len(COLORS)] - out[mask])
    for k, mask in enumerate(masks):
        out[outline(mask)] = COLORS[k % len(COLORS)]
    return out.round().astype(np.uint8)


def outline(mask: Array) -> Array:
    """The pixels of a mask that touch its outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    edge: Array = mask & ~inner
    return edge


def panels(view: View, found: Mapping[str, Masks], *, side: int = 320) -> Image.Image:
    """The truth (if there is one) and every model's masks side by side, each panel about ``side`` pixels."""
    parts = {"truth": view.truth} if len(view.truth) else {}
    parts |= {name: one.masks for name, one in found.items()}
    tiles = [_panel(view.image, masks, name, side) for name, masks in parts.items()]
    width, height = sum(t.width for t in tiles), max(t.height for t in tiles)
    strip = Image.new("RGB", (width, height + (_BAR if view.caption else 0)), "white")
    x = 0
    for tile in tiles:
        strip.paste(tile, (x, 0))
        x += tile.width
    if view.caption:
        ImageDraw.Draw(strip).text((4, height + 3), view.caption, fill="black")
    return strip


class Gallery:
    """A painter that writes the first ``most`` samples to a folder."""

    def __init__(self, folder: Path, *, most: int = 24) -> None:
        """The folder is made if it is not there."""
        self.folder, self.most = folder, most
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, index: int, view: View, found: Mapping[str, Masks]) -> None:
        """Write one sample's strip."""
        if index < self.most:
            panels(view, found).save(self.folder / f"{index:04d}.png")


def _panel(image: Array, masks: Array, name: str, side: int) -> Image.Image:
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    shapes = (
        np.stack([nearest(mask, size[1], size[0]) for mask in masks])
        if len(masks)
        else np.zeros((0, size[1], size[0]), np.bool_)
    )
    framed = Image.new("RGB", (size[0] + 4, size[1] + _BAR + 4), "white")
    framed.paste(Image.fromarray(overlay(pixels, shapes)), (2, _BAR + 2))
    ImageDraw.Draw(framed).text((4, 3), name, fill="black")
    return framed
