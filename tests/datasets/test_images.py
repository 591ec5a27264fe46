"""Image files: pixel values by format and depth, orientation, and refused files."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxptq.datasets import images
from onnxptq.errors import InputError

Make = Callable[[Path], None]


def saved(array: Any, **options: Any) -> Make:
    return lambda path: Image.fromarray(np.asarray(array)).save(path, **options)


def with_exif(orientation: int) -> Make:
    def make(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8)).save(path, exif=exif)

    return make


def png(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG of that announced size whose data stops at once."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "make", "grey"),
    [
        ("a.png", saved(np.array([[0, 128, 255]], np.uint8)), [[0, 128, 255]]),
        ("a.png", saved(np.array([[0, 257 * 7, 65535]], np.uint16)), [[0, 7, 255]]),
        ("a.tif", saved(np.array([[0, 257 * 200, 65535]], np.uint16)), [[0, 200, 255]]),
        ("a.tif", saved(np.array([[0.0, 0.2, 1.0]], np.float32)), [[0, 51, 255]]),
        ("a.tif", saved(np.array([[0.0, 51.0, 255.0]], np.float32)), [[0, 51, 255]]),
        ("a.bmp", saved(np.array([[False, True]])), [[0, 255]]),
        ("a.pgm", saved(np.array([[3, 4]], np.uint8)), [[3, 4]]),
        ("a.webp", saved(np.full((4, 4), 9, np.uint8), lossless=True), np.full((4, 4), 9)),
        ("a.png", with_exif(1), [[10, 20, 30], [40, 50, 60]]),
        ("a.png", with_exif(3), [[60, 50, 40], [30, 20, 10]]),
        ("a.png", with_exif(6), [[40, 10], [50, 20], [60, 30]]),
        ("a.png", with_exif(8), [[30, 60], [20, 50], [10, 40]]),
        ("a.png", with_exif(99), [[10, 20, 30], [40, 50, 60]]),
    ],
)
def test_pixels(tmp_path: Path, name: str, make: Make, grey: Any) -> None:
    path = tmp_path / name
    make(path)
    np.testing.assert_array_equal(np.asarray(images.read_pixels(path, "L")), grey)
    np.testing.assert_array_equal(images.read_image(path), np.repeat(np.asarray(grey)[..., None], 3, axis=2))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"no image", "cannot be read"),
        (EPS, "cannot identify"),
        (png(9, 9), "cannot be read"),
        (png(60000, 60000), "cannot be read: .*exceeds limit|at most"),
        (png(13000, 13000), "is 13000 x 13000; at most 134217728 pixels are read"),
        (png(9, 9)[:40], "cannot be read"),
    ],
)
def test_no_images(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (images.read_image, images.read_labels):
        with pytest.raises(InputError, match=rf"a\.png: .*({message})") as error:
            read(path)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[0, 300.0]], np.float32), "floating-point pixels are not in 0 .. 1 or 0 .. 255"),
        (np.array([[0, np.nan]], np.float32), "floating-point"),
        (np.array([[-1, 70000]], np.int32), "32-bit pixels"),
    ],
)
def test_pixels_without_a_meaning(tmp_path: Path, array: Any, message: str) -> None:
    saved(array)(tmp_path / "a.tif")
    with pytest.raises(InputError, match=message):
        images.read_image(tmp_path / "a.tif")


def test_a_broken_exif_block_turns_nothing(tmp_path: Path) -> None:
    held = io.BytesIO()
    Image.new("RGB", (3, 2)).save(held, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    (tmp_path / "a.jpg").write_bytes(held.getvalue())
    assert images.read_image(tmp_path / "a.jpg").shape == (2, 3, 3)


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    saved(np.array([[0, 150]], np.uint8))(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read_labels(tmp_path / "a.png"), [[0, 150]])
    saved(np.array([[0.5]], np.float32))(tmp_path / "a.tif")
    with pytest.raises(InputError, match="float32 values; expected class indices"):
        images.read_labels(tmp_path / "a.tif")
