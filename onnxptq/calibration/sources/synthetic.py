"""Synthetic samples from a seed: image-like for images, valid indices for integers, masks of ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq import machine
from onnxptq.calibration.sources.images import normalised
from onnxptq.calibration.sources.source import InputSpec, Sample, Source
from onnxptq.errors import InputError

TEXT, OTHER = 32, 64
"""Sizes of dynamic axes (tokens of text, others), and the numbers in inputs that hold sizes."""


DEFAULT_COUNT = 8


class Synthetic(Source):
    """Samples made from a seed; real ones are better."""

    def __init__(
        self,
        inputs: Sequence[InputSpec],
        *,
        samples: int,
        preprocess: str,
        seed: int,
        shapes: Mapping[str, Sequence[int]],
    ) -> None:
        text = next((spec for spec in inputs if spec.dtype.kind == "O"), None)
        if text is not None:
            raise InputError(f"input {text.name!r} holds text, of which no samples can be made up; give --calib")
        self.inputs = tuple(inputs)
        self.name = f"{samples} synthetic samples, seed {seed}"
        self._samples, self._preprocess, self._seed = samples, preprocess, seed
        self.shapes = _sizes(self.inputs, shapes)

    def __len__(self) -> int:
        return self._samples

    def label(self, index: int) -> str:
        """Number of the sample."""
        return f"synthetic sample {index}"

    def digest(self) -> str:
        """Hash of all parameters of the samples."""
        return hashlib.sha256(
            repr((self.inputs, self._samples, self._preprocess, self._seed, sorted(self.shapes.items()))).encode()
        ).hexdigest()

    def _sample(self, index: int) -> Sample:
        return {
            spec.name: self._array(spec, np.random.default_rng([self._seed, index, number]))
            for number, spec in enumerate(self.inputs)
        }

    def _array(self, spec: InputSpec, rng: np.random.Generator) -> NDArray[Any]:
        shape = self.shapes[spec.name]
        if spec.mask or spec.dtype.kind == "b":
            return np.ones(shape, spec.dtype)
        if spec.size:
            return np.full(shape, OTHER, spec.dtype)
        if spec.dtype.kind in "iu":
            return rng.integers(0, spec.below if spec.below is not None else 2, shape).astype(spec.dtype)
        if len(shape) == 4 and shape[1] in (1, 3):
            return normalised(_scene(shape, rng), self._preprocess, axis=1).astype(spec.dtype)
        if len(shape) == 4 and shape[3] in (1, 3):
            turned = _scene((shape[0], shape[3], *shape[1:3]), rng).transpose(0, 2, 3, 1)
            return normalised(turned, self._preprocess, axis=3).astype(spec.dtype)
        if len(shape) == 4:
            return ((_field(shape, rng) - 0.5) * 4).astype(spec.dtype)
        return rng.standard_normal(shape).astype(spec.dtype)


def _sizes(inputs: Sequence[InputSpec], given: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """The shape of every input: as given, else the model's with dynamic sizes filled in (equal names, equal sizes)."""
    for name, shape in given.items():
        spec = next((s for s in inputs if s.name == name), None)
        if spec is None:
            raise InputError(
                f"--shape {name}: the model has no such input; it takes {', '.join(s.name for s in inputs)}"
            )
        if len(shape) != len(spec.shape) or any(
            isinstance(n, int) and n != m for n, m in zip(spec.shape, shape, strict=True)
        ):
            raise InputError(f"--shape {name}={','.join(map(str, shape))}: the model takes {spec.text}")
    named: dict[str, int] = {}
    for spec in inputs:
        if spec.name in given:
            named |= {n: m for n, m in zip(spec.shape, given[spec.name], strict=True) if isinstance(n, str)}
    for spec in sorted(inputs, key=lambda s: s.dtype.kind not in "iub"):
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                named.setdefault(size, _size(spec, axis))
    sizes = {
        spec.name: tuple(
            given[spec.name][axis]
            if spec.name in given
            else size
            if isinstance(size, int)
            else named[size]
            if size
            else _size(spec, axis)
            for axis, size in enumerate(spec.shape)
        )
        for spec in inputs
    }
    most = machine.available() // 8
    for spec in inputs:
        if math.prod(sizes[spec.name]) * 8 > most:
            text = ",".join(map(str, sizes[spec.name]))
            raise InputError(
                f"--shape {spec.name}={text}: a sample of that size does not fit memory; give a smaller one"
            )
    return sizes


def _size(spec: InputSpec, axis: int) -> int:
    return 1 if axis == 0 else TEXT if spec.dtype.kind in "iub" or spec.mask else OTHER


def _field(shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float64]:
    """Smooth noise of many scales over the last two axes, in 0 .. 1."""
    height, width = shape[-2:]
    total = np.zeros(shape)
    cells, weight = 2, 1.0
    while cells <= max(height, width, 2):
        coarse = rng.random((*shape[:-2], cells + 1, cells + 1))
        total += weight * _stretched(_stretched(coarse, height, -2), width, -1)
        cells, weight = cells * 2, weight * 0.6
    low, high = total.min(axis=(-2, -1), keepdims=True), total.max(axis=(-2, -1), keepdims=True)
    field: NDArray[np.float64] = (total - low) / np.maximum(high - low, 1e-12)
    return field


def _stretched(x: NDArray[np.float64], size: int, axis: int) -> NDArray[np.float64]:
    """Linear interpolation of one axis to ``size`` points."""
    place = np.linspace(0, x.shape[axis] - 1, size)
    first = np.minimum(place.astype(np.int64), x.shape[axis] - 2)
    share = (place - first).reshape(-1, *[1] * (-1 - axis))
    stretched: NDArray[np.float64] = (
        np.take(x, first, axis=axis) * (1 - share) + np.take(x, first + 1, axis=axis) * share
    )
    return stretched


def _scene(shape: Sequence[int], rng: np.random.Generator) -> NDArray[np.float64]:
    """An image-like array in 0 .. 255: smooth background, flat and striped shapes with sharp edges."""
    channels, height, width = shape[1:]
    scene = _field(shape, rng) * 0.8
    rows, columns = np.mgrid[:height, :width]
    for image in scene:
        for _ in range(12):
            top, left = rng.integers(0, height), rng.integers(0, width)
            tall, wide = rng.integers(1, max(height // 2, 2)), rng.integers(1, max(width // 2, 2))
            inside = (
                ((rows - top) / tall) ** 2 + ((columns - left) / wide) ** 2 < 1
                if rng.random() < 0.5
                else ((abs(rows - top) < tall / 2) & (abs(columns - left) < wide / 2))
            )
            colour = rng.random((channels, 1))
            stripes = (
                0.15 * np.sin((rows * rng.normal() + columns * rng.normal())[inside]) if rng.random() < 0.4 else 0.0
            )
            image[:, inside] = np.clip(colour + stripes, 0, 1)
    noisy: NDArray[np.float64] = np.clip(scene + 0.02 * rng.standard_normal(scene.shape), 0, 1) * 255
    return noisy


def limited(samples: object, limit: int | None) -> tuple[int | None, bool]:
    """The limit, that of synthetic samples where none is given; and whether samples are synthetic."""
    synthetic = isinstance(samples, str) and samples == "synthetic"
    return DEFAULT_COUNT if synthetic and limit is None else limit, synthetic
