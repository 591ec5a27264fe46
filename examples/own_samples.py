"""Quantize a model with samples of your own: any iterable of {input name: array} will do.

    python examples/own_samples.py encoder.onnx pictures/ encoder.w8a8.onnx

This one reads a folder of pictures as Segment Anything does: the longest side scaled to the input's size, the ImageNet
mean taken off, the rest padded with zeros. (``onnxptq quantize --calib pictures/ --preprocess sam`` does the same.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxptq import Quantizer, session

MEAN = np.array([123.675, 116.28, 103.53], np.float32)
DEVIATION = np.array([58.395, 57.12, 57.375], np.float32)


class Pictures:
    """The samples. A class, since calibration walks over them more than once."""

    def __init__(self, folder: Path, name: str, side: int) -> None:
        self.files, self.name, self.side = sorted(folder.glob("*.png")) + sorted(folder.glob("*.jpg")), name, side

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[dict[str, NDArray[np.float32]]]:
        for file in self.files:
            picture = Image.open(file).convert("RGB")
            picture.thumbnail((self.side, self.side))
            pixels = (np.asarray(picture, np.float32) - MEAN) / DEVIATION
            padded = np.zeros((1, 3, self.side, self.side), np.float32)
            padded[0, :, : pixels.shape[0], : pixels.shape[1]] = pixels.transpose(2, 0, 1)
            yield {self.name: padded}


def main(model: str, folder: str, output: str, recipe: str = "auto") -> None:
    """Quantize ``model`` to 8 bits on the pictures of ``folder``."""
    pixels = session(model).get_inputs()[0]
    samples = Pictures(Path(folder), pixels.name, pixels.shape[-1])
    quantizer = Quantizer(model, recipe=recipe, bits="w8a8")
    quantizer.calibrate(samples)
    result = quantizer.quantize()
    result.save(output)
    for name, metrics in result.report.outputs.items():
        print(f"{name}: {metrics.sqnr:.1f} dB on {len(samples)} pictures")


if __name__ == "__main__":
    main(*sys.argv[1:])
