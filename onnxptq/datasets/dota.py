"""DOTA aerial images: one text file an image; a line holds an object's four corners, class and difficulty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxptq.datasets.files import existing, require_folder
from onnxptq.datasets.images import read_image
from onnxptq.errors import InputError
from onnxptq.files import read_text, reading

_HEADER = ("imagesource", "gsd", "acquisition dates")


@dataclass(frozen=True)
class Oriented:
    """One object."""

    corners: NDArray[np.float64]
    """[4, 2]: x, y"""
    category: str
    difficult: bool

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The horizontal box around it: x0, y0, x1, y1."""
        (x0, y0), (x1, y1) = self.corners.min(0), self.corners.max(0)
        return float(x0), float(y0), float(x1), float(y1)


@dataclass(frozen=True)
class Aerial:
    """One image with its objects."""

    name: str
    path: Path
    objects: tuple[Oriented, ...]

    def image(self) -> NDArray[np.uint8]:
        """RGB pixels [H, W, 3]."""
        return read_image(self.path)


@dataclass(frozen=True)
class Dota:
    """Images in file order."""

    images: tuple[Aerial, ...]
    categories: tuple[str, ...]

    @classmethod
    def load(cls, folder: str | Path) -> Dota:
        """Read FOLDER/images and FOLDER/labelTxt; label files without an image are skipped (partial downloads)."""
        root = require_folder(Path(folder), "data")
        pictures = existing(root, ["images"], "DOTA")
        labels = existing(root, ["labelTxt", "labelTxt-v1.0", "labelTxt-v1.5"], "DOTA")
        files = sorted(f for f in pictures.iterdir() if f.suffix.lower() in (".png", ".jpg", ".tif", ".bmp"))
        if not files:
            raise InputError(f"DOTA: no image in {pictures}")
        found = []
        for file in files:
            text = labels / f"{file.stem}.txt"
            if not text.is_file():
                raise InputError(f"image {file}: no label file {text}")
            found.append(Aerial(file.stem, file, read_label_file(text)))
        return cls(tuple(found), tuple(sorted({o.category for image in found for o in image.objects})))

    def __iter__(self) -> Iterator[Aerial]:
        return iter(self.images)


def read_label_file(path: Path) -> tuple[Oriented, ...]:
    """Objects of one file."""
    with reading(path):
        lines = read_text(path).splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.split(":")[0].strip().lower() in _HEADER:
            continue
        try:
            corners = np.array([float(v) for v in words[:8]], np.float64).reshape(4, 2)
            category, difficult = words[8], bool(int(words[9])) if len(words) > 9 else False
        except (ValueError, IndexError):
            raise InputError(f"{path}: line {number} is not eight coordinates, a class and 0 or 1") from None
        if not np.isfinite(corners).all():
            raise InputError(f"{path}: line {number} has a coordinate that is not a finite number")
        found.append(Oriented(corners, category, difficult))
    return tuple(found)
