"""Samples in files: a folder of images, .npz or .npy files, or one such file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxptq import machine
from onnxptq.calibration.sources.forms import stacked
from onnxptq.calibration.sources.images import ImageInput, check_preprocess
from onnxptq.calibration.sources.source import InputSpec, Listed, Sample, Source, checked
from onnxptq.datasets.draw import Draw
from onnxptq.datasets.images import SUFFIXES
from onnxptq.errors import InputError
from onnxptq.files import Archive, reading


class Files(Source):
    """One sample per file, in the order given."""

    def __init__(self, paths: Sequence[Path], inputs: Sequence[InputSpec], *, name: str) -> None:
        self.inputs = tuple(inputs)
        self.name = name
        self._paths = list(paths)
        for index in range(len(self)):
            checked(self._sample(index), self.inputs, self.label(index), self.notes)

    def __len__(self) -> int:
        return len(self._paths)

    def label(self, index: int) -> str:
        """Path of the file."""
        return str(self._paths[index])

    def digest(self) -> str:
        """Hash of names and contents."""
        held = hashlib.sha256(self._settings().encode())
        for path in self._paths:
            held.update(os.fsencode(path.name) + hashlib.sha256(path.read_bytes()).digest())
        return held.hexdigest()

    def _settings(self) -> str:
        return ""

    def _sample(self, index: int) -> Sample:
        return read_arrays(self._paths[index], self.inputs)


class Images(Files):
    """A folder of images for a model with one image input."""

    def __init__(self, paths: Sequence[Path], inputs: Sequence[InputSpec], *, name: str, preprocess: str) -> None:
        check_preprocess(preprocess)
        self._image = ImageInput.of(list(inputs))
        self.preprocess: str = preprocess
        super().__init__(paths, inputs, name=f"{name}, {preprocess}")

    def _settings(self) -> str:
        return repr((self._image, self.preprocess))

    def _sample(self, index: int) -> Sample:
        return {self._image.spec.name: self._image.load(self._paths[index], self.preprocess)}


def open_path(path: Path, inputs: Sequence[InputSpec], *, draw: Draw, preprocess: str) -> Source:
    """The source in a folder or file."""
    if path.is_dir():
        return _folder(path, inputs, draw, preprocess)
    if not path.is_file():
        raise InputError(
            f"calibration {path}: no such file or folder; give a folder of images or .npz files, or 'synthetic'"
        )
    match path.suffix.lower():
        case ".npz" | ".npy":
            held = draw.of(stacked(read_arrays(path, inputs), inputs))
            return Listed(held, inputs, limit=None, name=f"samples of {path.name}")
        case suffix if suffix in SUFFIXES:
            return Images([path], inputs, name=path.name, preprocess=preprocess)
    raise InputError(f"calibration {path}: not a folder, an image, .npz or .npy; give one of these, or 'synthetic'")


def _folder(path: Path, inputs: Sequence[InputSpec], draw: Draw, preprocess: str) -> Source:
    with reading(f"calibration {path}"):
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
    kinds = {
        ".npz": [p for p in files if p.suffix.lower() == ".npz"],
        ".npy": [p for p in files if p.suffix.lower() == ".npy"],
    }
    kinds["image"] = [p for p in files if p.suffix.lower() in SUFFIXES]
    filled = [kind for kind, found in kinds.items() if found]
    if not filled:
        raise InputError(f"calibration {path}: the folder holds no image, .npz or .npy file")
    if len(filled) > 1:
        raise InputError(f"calibration {path}: the folder holds {' and '.join(filled)} files; give one kind")
    chosen = draw.of(kinds[filled[0]])
    name = f"{len(chosen)} {filled[0]} file{'s' if len(chosen) > 1 else ''} of {path.name}"
    return (
        Images(chosen, inputs, name=name, preprocess=preprocess)
        if filled == ["image"]
        else Files(chosen, inputs, name=name)
    )


def read_arrays(path: Path, inputs: Sequence[InputSpec]) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz by name; the array of an .npy as the model's one input.

    Headers are read first: names, types and shapes are checked before the arrays take any memory.
    """
    archive = Archive(path, most=machine.available() // 2)
    single = archive.headers.keys() == {""}
    if single and len(inputs) != 1:
        names = ", ".join(s.name for s in inputs)
        raise InputError(
            f"calibration {path}: an .npy feeds a model with one input, this one takes {names}; give .npz files"
        )

    def named(name: str) -> str:
        return inputs[0].name if single else name

    announced = {
        named(name): np.broadcast_to(np.zeros((), kind), shape) for name, (kind, shape) in archive.headers.items()
    }
    checked(stacked(announced, inputs)[0], inputs, str(path), values=False)
    return {named(name): array for name, array in archive.arrays().items()}
