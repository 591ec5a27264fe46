"""Compare recipes on the embedded SAM encoder: size, and output SQNR on scenes that no recipe has seen.

python examples/compare_recipes.py w4a8 minmax percentile ptq4sam-s auto
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from onnxptq import Quantizer, session
from onnxptq.datasets import zoo

CALIBRATION, UNSEEN = 8, 8


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal over quantization error in dB."""
    return float(10 * np.log10(np.square(reference).sum() / np.square(reference - other).sum()))


def main(bits: str = "w6a6", *recipes: str) -> None:
    """Quantize with each recipe and print one line each."""
    model = zoo.path("sam-mini-encoder")
    unseen = list(zoo.encoder_calibration(UNSEEN, seed=1))  # another seed, other scenes
    original = session(model)
    expected = [original.run(None, sample)[0] for sample in unseen]
    print(f"{'recipe':<12} {'size MB':>8} {'SQNR dB':>8}")
    for recipe in recipes or ("minmax", "percentile", "auto"):
        quantizer = Quantizer(model, recipe=recipe, bits=bits)
        quantizer.calibrate(zoo.encoder_calibration(CALIBRATION))
        with TemporaryDirectory() as folder:
            file = Path(folder) / "encoder.onnx"
            quantizer.quantize().save(file)
            size, quantized = file.stat().st_size, session(file)
        errors = [sqnr(want, quantized.run(None, sample)[0]) for want, sample in zip(expected, unseen, strict=True)]
        print(f"{recipe:<12} {size / 1e6:>8.2f} {np.median(errors):>8.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
