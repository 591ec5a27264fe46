"""Photographs and class maps in files: accepted formats, and pixels as a viewer shows them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxptq.errors import InputError
from onnxptq.files import reading

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow may open. Others start programs (EPS) or read further files."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"})
PIXELS = 2**27
"""Pixels of the largest image that is decoded."""
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition by EXIF orientation that makes a photograph upright."""


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, from the file's header."""
    with _opened(path, "image") as image:
        return image.size


def read_pixels(path: Path, mode: str = "RGB") -> Image.Image:
    """The image of a file in ``mode`` RGB or L, upright, 8 bits a colour.

    16 bits are brought to 8. Floating-point pixels are 0 .. 1, or 0 .. 255 where the largest is above 1.
    """
    with _opened(path, "image") as image:
        return _upright(_eight_bits(image, path), image).convert(mode)


def read_image(path: Path) -> NDArray[np.uint8]:
    """RGB pixels [H, W, 3] of ``read_pixels``."""
    return np.asarray(read_pixels(path))


def read_labels(path: Path) -> NDArray[np.int64]:
    """Class index of every pixel [H, W] of a label image with one channel."""
    with _opened(path, "label image") as image:
        labels = np.asarray(image)
    if labels.ndim != 2:
        raise InputError(f"label image {path}: has {labels.shape[-1]} channels; expected one channel of class indices")
    if labels.dtype.kind not in "iub":
        raise InputError(f"label image {path}: holds {labels.dtype} values; expected class indices")
    return labels.astype(np.int64)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[Image.Image]:
    """An image of one of the accepted formats and at most the largest size."""
    with reading(f"{what} {path}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > PIXELS:
                raise InputError(f"{what} {path}: is {image.width} x {image.height}; at most {PIXELS} pixels are read")
            yield image


def _upright(pixels: Image.Image, original: Image.Image) -> Image.Image:
    """The pixels turned by the file's EXIF orientation; an unreadable EXIF block is ignored."""
    try:
        orientation = original.getexif().get(ORIENTATION)
    except Exception:
        orientation = None
    turn = TURNS.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else pixels.transpose(turn)


def _eight_bits(image: Image.Image, path: Path) -> Image.Image:
    """An image of integers or floating-point numbers as 8-bit grey; others as they are."""
    if not image.mode.startswith(("I", "F")):
        return image
    if image.mode == "I" and image.format != "PNG":
        raise InputError(f"image {path}: holds 32-bit pixels; save it with 8 or 16 bits")
    values = np.asarray(image)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all() or values.min(initial=0) < 0 or values.max(initial=0) > 255:
            raise InputError(
                f"image {path}: its floating-point pixels are not in 0 .. 1 or 0 .. 255; save it as 8 bits"
            )
        scaled = values * 255.0 if values.max(initial=0) <= 1 else values.astype(np.float64)
    else:
        scaled = values / 257.0
    return Image.fromarray(np.rint(scaled).astype(np.uint8))
