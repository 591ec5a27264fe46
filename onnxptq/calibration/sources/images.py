"""Images as model inputs: RGB, resized to the input's height and width, and normalised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxptq.calibration.sources.source import InputSpec
from onnxptq.datasets.images import read_pixels
from onnxptq.errors import InputError

PREPROCESS = ("imagenet", "sam", "unit", "raw")
_MEAN = np.array([123.675, 116.28, 103.53])
_DEVIATION = np.array([58.395, 57.12, 57.375])


def normalised(pixels: NDArray[Any], preprocess: str, *, axis: int) -> NDArray[np.float64]:
    """Pixels of 0 .. 255 normalised as in the model's training; ``axis`` counts the colours.

    ``imagenet`` and ``sam`` subtract the mean colour and divide by its deviation, ``unit`` gives 0 .. 1, ``raw``
    changes nothing.
    """
    check_preprocess(preprocess)
    x = pixels.astype(np.float64)
    if preprocess == "raw":
        return x
    if preprocess == "unit":
        return x / 255
    colours = [1] * x.ndim
    colours[axis] = x.shape[axis]
    mean, deviation = (c if x.shape[axis] == 3 else np.full(x.shape[axis], c.mean()) for c in (_MEAN, _DEVIATION))
    result: NDArray[np.float64] = (x - mean.reshape(colours)) / deviation.reshape(colours)
    return result


def check_preprocess(preprocess: str) -> None:
    """An InputError for an unknown preprocessing."""
    if preprocess not in PREPROCESS:
        raise InputError(f"--preprocess {preprocess!r}: use one of {', '.join(PREPROCESS)}")


@dataclass(frozen=True)
class ImageInput:
    """The one image input of a model."""

    spec: InputSpec
    height: int
    width: int
    channels: int
    colour_axis: int

    @classmethod
    def of(cls, inputs: list[InputSpec]) -> ImageInput:
        """The image input of a model that has no other; an InputError for other models."""
        if len(inputs) != 1:
            names = ", ".join(s.name for s in inputs)
            raise InputError(
                f"calibration: images feed a model with one input, this one takes {names}; give .npz files with "
                f"these names"
            )
        spec = inputs[0]
        rank = len(spec.shape)
        axes = [a for a in (rank - 3, rank - 1) if rank in (3, 4) and spec.shape[a] in (1, 3)]
        if not axes:
            raise InputError(
                f"calibration: input {spec.name!r} is {spec.text}, which is no image of 1 or 3 colours; give .npz or "
                f".npy files"
            )
        colours = axes[0]
        height, width = (spec.shape[a] for a in range(rank - 3, rank) if a != colours)
        if not isinstance(height, int) or not isinstance(width, int):
            raise InputError(
                f"calibration: input {spec.name!r} is {spec.text}; give the size images go to: --shape "
                f"{spec.name}=1,3,HEIGHT,WIDTH"
            )
        count = spec.shape[colours]
        assert isinstance(count, int)
        return cls(spec, height, width, count, colours)

    def load(self, path: Path, preprocess: str) -> NDArray[Any]:
        """Load an image file for the input.

        ``sam`` keeps the aspect: the long side is resized, then zeros are added at the right and bottom.
        """
        image = read_pixels(path, "RGB" if self.channels == 3 else "L")
        size = (self.width, self.height)
        if preprocess == "sam":
            factor = min(self.width / image.width, self.height / image.height)
            size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
        resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR)).reshape(size[1], size[0], self.channels)
        pixels: NDArray[Any] = resized if self.spec.dtype.kind in "iu" else normalised(resized, preprocess, axis=2)
        padded = np.zeros((self.height, self.width, self.channels), pixels.dtype)
        padded[: size[1], : size[0]] = pixels
        rank = len(self.spec.shape)
        turned = padded.transpose(2, 0, 1) if self.colour_axis == rank - 3 else padded
        return turned.reshape((1, *turned.shape) if rank == 4 else turned.shape).astype(self.spec.dtype)
