"""Masks of one quantized model run in several ways: `python -m benchmarks.executors [--bits w4a4 ...] [--scenes 90]`
prints Markdown.

The embedded SAM, encoder and decoder, recipe `auto`. The simulation is what calibration looks at: the graph in float32
with coding and decoding as separate ops and weights as they decode. The written file runs with the native library, from
its function bodies alone, and as format `portable`. Agreement is the mean IoU of two ways' masks. `nudged` is the
simulation with each pixel moved by about a millionth of its range: as far as rounding of floats alone carries the
masks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.datasets import zoo
from onnxptq.datasets.prompts import sam_input
from onnxptq.evaluate.overlap import Agreement
from onnxptq.evaluate.predictors import SamPredictor
from onnxptq.lower import native, portable
from onnxptq.pipeline.weights import simulation
from onnxptq.quantizer import Quantizer
from onnxptq.report.text import markdown_table
from onnxptq.running.sessions import Executor

IMAGES = 32
PARTS = ("encoder", "decoder")
Array = NDArray[Any]
Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True)
class Way:
    """A form of the quantized model, and its executor."""

    form: str
    executor: Executor
    nudge: float = 0.0
    """Largest change of normalised pixels."""


class Nudged(SamPredictor):
    """Changes the pixels of an image slightly, always in the same way."""

    nudge = 0.0

    def embed(self, planes: Array) -> Array:
        """See SamPredictor."""
        pixels = sam_input(planes, self.size)
        moved = pixels + np.random.default_rng(0).uniform(-self.nudge, self.nudge, pixels.shape).astype(np.float32)
        found: Array = self._encoder.run(None, {self._pixels: moved})[0]
        return found


WAYS = {
    "simulation": Way("simulation", "function"),
    "nudged": Way("simulation", "function", 4e-6),
    "native library": Way("native", "native"),
    "function bodies": Way("native", "function"),
    "portable": Way("portable", "function"),
}


def forms(part: str, bits: str) -> dict[str, onnx.ModelProto]:
    """A part of the model, quantized once, in every form."""
    quantizer = Quantizer(zoo.path(f"sam-mini-{part}"), bits=bits, threads=1)
    plan = quantizer.calibrate("zoo:sam-mini", limit=IMAGES)
    found = quantizer.model, quantizer.structure, plan
    written = {"native": native.lower(*found).proto, "portable": portable.lower(*found).proto}
    return {"simulation": simulation(quantizer.model, quantizer.structure, plan), **written}


def predicted(models: dict[str, dict[str, onnx.ModelProto]], way: Way, scenes: Iterable[zoo.PromptSample]) -> Masks:
    """Masks of every box."""
    encoder, decoder = (models[part][way.form] for part in PARTS)
    predictor = Nudged(encoder, decoder, executor=way.executor, threads=1)
    predictor.nudge = way.nudge
    return [predictor.masks(scene.image.transpose(1, 2, 0), scene.boxes).masks for scene in scenes]


def agreement(one: Masks, other: Masks) -> float:
    """Percent."""
    found = Agreement()
    for a, b in zip(one, other, strict=True):
        found.add(a, b)
    return found.percent


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", nargs="+", default=["w8a8", "w4a4"])
    parser.add_argument("--scenes", type=int, default=90)
    args = parser.parse_args()
    scenes = list(zoo.prompt_samples("val", args.scenes))
    full = SamPredictor(*(zoo.path(f"sam-mini-{part}") for part in PARTS), threads=1)
    original = [full.masks(scene.image.transpose(1, 2, 0), scene.boxes).masks for scene in scenes]
    lines = []
    for bits in args.bits:
        models = {part: forms(part, bits) for part in PARTS}
        masks = {name: predicted(models, way, scenes) for name, way in WAYS.items()}
        others = {"FP32": original, **masks}
        lines += [
            [bits, name, *(f"{agreement(one, other):.2f}" for other in others.values())] for name, one in masks.items()
        ]
    print(f"{sum(len(one) for one in original)} masks\n\n" + markdown_table(["", "", "FP32", *WAYS], lines))


if __name__ == "__main__":
    main()
