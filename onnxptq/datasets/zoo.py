"""The embedded zoo models, and samples of the procedural scenes as these models take them. No torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from onnxptq.datasets import scenes
from onnxptq.datasets.prompts import Array, Feeds, box_feeds, imagenet, mask_box, sam_pixels
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.errors import InputError

_FOLDER = Path(__file__).parent.parent / "data" / "zoo"
"""Not by importlib.resources: in an editable install the package has several folders, and str() of them is no path."""
VOCABULARY = _FOLDER / "lavt-mini.vocab.txt"
"""Vocabulary of the embedded LAVT."""

MODELS = ("sam-mini-encoder", "sam-mini-decoder", "lavt-mini")
IMAGE_SIZE = 128


class Runs(Protocol):
    """The interface of an onnxruntime session that is used here."""

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds) -> list[Any]:
        """Outputs by name, or all of them."""
        ...

    def get_inputs(self) -> list[Any]:
        """Names and shapes."""
        ...


@dataclass(frozen=True)
class PromptSample:
    """One scene, and a box for every object of it."""

    image: Array
    """uint8 [3, S, S]"""
    masks: Array
    """bool [n, S, S]"""
    boxes: Array
    """float32 [n, 4]: x0, y0, x1, y1 in pixels, all inclusive."""

    @property
    def encoder_feeds(self) -> Feeds:
        """Input of the encoder."""
        return {"image": sam_pixels(self.image)[None]}

    def decoder_feeds(self, embeddings: Array) -> Feeds:
        """Inputs of the decoder: all boxes of the image in one batch, two points each."""
        return box_feeds(embeddings, self.boxes)


@dataclass(frozen=True)
class RefSample:
    """One scene with one expression and its mask."""

    image: Array
    """uint8 [3, S, S]"""
    mask: Array
    """bool [S, S]"""
    text: str
    kind: str

    @property
    def feeds(self) -> Feeds:
        """Inputs of LAVT."""
        ids, attention = tokenizer().batch([self.text])
        return {"image": imagenet(self.image)[None], "input_ids": ids, "attention_mask": attention}


def path(name: str) -> Path:
    """The file of an embedded model."""
    if name not in MODELS:
        raise InputError(f"zoo model '{name}': choose {', '.join(MODELS)}")
    return _FOLDER / f"{name}.onnx"


def metrics() -> dict[str, Any]:
    """The published figures of the embedded models in FP32."""
    found: dict[str, Any] = json.loads((_FOLDER / "metrics.json").read_text(encoding="utf-8"))
    return found


@cache
def tokenizer() -> WordPiece:
    """The tokenizer of the embedded LAVT."""
    return WordPiece.load(VOCABULARY)


def prompt_samples(split: str, count: int, *, start: int = 0, size: int = IMAGE_SIZE) -> Iterator[PromptSample]:
    """``count`` scenes of a split from index ``start`` on."""
    check_known("split", split, scenes.SPLITS)
    for index in range(start, start + count):
        scene = scenes.scene_for(split, index)
        planes, idmap = scenes.at_size(scene, size)
        masks = np.stack([idmap == o.index + 1 for o in scene.objects])
        yield PromptSample(planes, masks, np.array([mask_box(mask) for mask in masks], np.float32))


def ref_samples(
    benchmark: str, split: str, count: int, *, start: int = 0, size: int = IMAGE_SIZE
) -> Iterator[RefSample]:
    """``count`` (scene, expression, mask) triples of a benchmark split from index ``start`` on."""
    check_known("split", split, scenes.SPLITS)
    check_known("benchmark", benchmark, scenes.BENCHMARKS)
    for index in range(start, start + count):
        scene, ref = scenes.ref_sample(benchmark, split, index)
        planes, idmap = scenes.at_size(scene, size)
        yield RefSample(planes, idmap == ref.target + 1, ref.text, ref.kind)


class Calibration:
    """Feeds from the train split that are made anew in every walk and never kept."""

    def __init__(self, count: int, seed: int, feeds: Callable[[int], Feeds]) -> None:
        """``feeds`` gives the inputs of one index of the train split."""
        # Each seed has its own range of the split, apart from the models' training scenes.
        self._first, self._count, self._feeds = 700_000_000 + 100_000 * seed, count, feeds

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Feeds:
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._feeds(self._first + index)

    def __iter__(self) -> Iterator[Feeds]:
        return (self[i] for i in range(self._count))


def encoder_calibration(count: int, *, seed: int = 0) -> Calibration:
    """Encoder inputs."""
    return Calibration(count, seed, _encoder_feeds)


def decoder_calibration(encoder: Runs, count: int, *, seed: int = 0) -> Calibration:
    """Decoder inputs of the same scenes: embeddings of the FP32 ``encoder`` session, boxes batched per image."""
    return Calibration(count, seed, partial(_decoder_feeds, encoder))


def lavt_calibration(count: int, *, seed: int = 0) -> Calibration:
    """LAVT inputs, the three benchmarks in turn."""
    return Calibration(count, seed, _lavt_feeds)


def _encoder_feeds(index: int) -> Feeds:
    return _prompts(index).encoder_feeds


def _decoder_feeds(encoder: Runs, index: int) -> Feeds:
    sample = _prompts(index)
    return sample.decoder_feeds(encoder.run(None, sample.encoder_feeds)[0])


def _lavt_feeds(index: int) -> Feeds:
    return next(ref_samples(scenes.BENCHMARKS[index % 3], "train", 1, start=index)).feeds


def _prompts(index: int) -> PromptSample:
    return next(prompt_samples("train", 1, start=index))


def check_known(what: str, value: str, options: Sequence[str]) -> None:
    """Fail where ``value`` is none of ``options``."""
    if value not in options:
        raise InputError(f"{what} '{value}': choose {', '.join(options)}")
