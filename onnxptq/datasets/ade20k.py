"""ADE20K in the layout of its scene-parsing benchmark: photographs, and PNGs of class indices (0 = other, 1 to 150)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxptq.datasets.files import existing, require_folder
from onnxptq.datasets.images import read_image, read_labels
from onnxptq.errors import InputError

CLASSES = 150


@dataclass(frozen=True)
class Scene:
    """One photograph with its true and its coarse class map."""

    name: str
    image_path: Path
    truth_path: Path
    coarse_path: Path

    def image(self) -> NDArray[np.uint8]:
        """RGB pixels [H, W, 3]."""
        return read_image(self.image_path)

    def truth(self) -> NDArray[np.int64]:
        """Class of every pixel."""
        return self._labels(self.truth_path)

    def coarse(self) -> NDArray[np.int64]:
        """Class of every pixel by another segmentor."""
        return self._labels(self.coarse_path)

    def _labels(self, path: Path) -> NDArray[np.int64]:
        labels, image = read_labels(path), self.image().shape[:2]
        if labels.shape != image:
            raise InputError(
                f"label image {path}: is {labels.shape[1]} x {labels.shape[0]}, but its image {image[1]} x {image[0]}"
            )
        if labels.size and labels.max() > CLASSES:
            raise InputError(f"label image {path}: class {labels.max()}; the benchmark has 0 (other) to {CLASSES}")
        return labels


@dataclass(frozen=True)
class Ade20k:
    """Scenes in file order."""

    scenes: tuple[Scene, ...]

    @classmethod
    def load(cls, folder: str | Path, *, split: str = "validation", coarse: str | Path | None = None) -> Ade20k:
        """Read FOLDER/images[/SPLIT] and FOLDER/annotations[/SPLIT].

        ``coarse`` is a folder of class maps of the same names from another segmentor, FOLDER/predictions by default.
        """
        root = require_folder(Path(folder), "data")
        images = existing(root, [f"images/{split}", "images"], f"split '{split}'")
        truths = existing(root, [f"annotations/{split}", "annotations"], f"split '{split}'")
        guesses = (
            require_folder(Path(coarse), "coarse maps")
            if coarse
            else existing(root, [f"predictions/{split}", "predictions"], "coarse maps")
        )
        files = sorted(f for f in images.iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
        if not files:
            raise InputError(f"split '{split}': no image in {images}")
        for file in files:
            for maps in (truths, guesses):
                if not (maps / f"{file.stem}.png").is_file():
                    raise InputError(f"image {file}: no class map {maps / file.stem}.png")
        return cls(tuple(Scene(f.stem, f, truths / f"{f.stem}.png", guesses / f"{f.stem}.png") for f in files))

    def __iter__(self) -> Iterator[Scene]:
        return iter(self.scenes)
