"""Segment Anything and LAVT as ONNX sessions: pixels in, masks out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

from onnxptq.datasets.prompts import box_feeds, imagenet, longest_side, sam_input
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.errors import InputError, one_line
from onnxptq.evaluate.resize import bilinear
from onnxptq.running.sessions import Executor, session

Array = NDArray[Any]
Source = str | Path | bytes | onnx.ModelProto

_BOXES_AT_ONCE = 64  # the decoder repeats the image tokens for every box of a call


@dataclass(frozen=True)
class Masks:
    """Predicted masks of one image, and the model's score of each."""

    masks: Array
    """bool [n, H, W]"""
    scores: Array
    """float32 [n]: predicted IoU, or 1 where the model gives none."""


class SamPredictor:
    """Box prompts to masks, with segment_anything's pre- and post-processing and mask 0 (its single-mask output)."""

    def __init__(
        self, encoder: Source, decoder: Source, *, executor: Executor | None = None, threads: int | None = None
    ) -> None:
        """Two models: image to embeddings, and embeddings with prompts to masks."""
        self._made_of = partial(SamPredictor, encoder, decoder, executor=executor, threads=threads)
        self._encoder = _start(encoder, "SAM encoder", executor, threads)
        self._decoder = _start(decoder, "SAM decoder", executor, threads)
        pixels = self._encoder.get_inputs()
        if len(pixels) != 1 or len(pixels[0].shape) != 4:
            raise InputError(
                f"SAM encoder: expected one image input of rank 4, found {[f'{i.name} {i.shape}' for i in pixels]}"
            )
        self._pixels: str = pixels[0].name
        self.size = _side(pixels[0].shape, "SAM encoder")
        self._inputs = {i.name: i.shape for i in self._decoder.get_inputs()}
        self._prompts = {role: self._input(role) for role in ("embed", "coords", "labels")}
        shapes = {o.name: o.shape for o in self._decoder.get_outputs()}
        low = [name for name, shape in shapes.items() if len(shape) == 4]
        if not low:
            raise InputError(
                f"SAM decoder: none of its outputs {', '.join(shapes)} holds masks [prompts, masks, height, width]"
            )
        self._masks = next((name for name in low if "low" in name), low[0])
        self._scores = next((name for name, shape in shapes.items() if len(shape) == 2), None)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Opened anew in another process."""
        return self._made_of, ()

    def embed(self, planes: Array) -> Array:
        """Embeddings of RGB planes uint8 [3, S, S] (or smaller: padded right and below, after normalisation)."""
        out: Array = self._encoder.run(None, {self._pixels: sam_input(planes, self.size)})[0]
        return out

    def decode(self, embeddings: Array, boxes: Array) -> tuple[Array, Array]:
        """Low-resolution logits [n, h, w] and scores [n] of boxes [n, 4] in pixels of the encoder's input."""
        prompts = box_feeds(embeddings, boxes)
        roles = {"embed": "image_embeddings", "coords": "point_coords", "labels": "point_labels"}
        feeds: dict[str, Array] = {self._prompts[role]: prompts[name] for role, name in roles.items()}
        side = 4 * embeddings.shape[-1]
        spare = {
            "mask_input": np.zeros((1, 1, side, side)),
            "has_mask_input": np.zeros(1),
            "orig_im_size": np.full(2, self.size),
        }
        feeds |= {name: spare[name].astype(np.float32) for name in self._inputs if name in spare}
        names = [self._masks, *([self._scores] if self._scores else [])]
        outputs = self._decoder.run(names, feeds)
        scores = outputs[1][:, 0] if self._scores else np.ones(len(boxes), np.float32)
        return outputs[0][:, 0], scores

    def masks(self, image: Array, boxes: Array) -> Masks:
        """Masks at image size of boxes [n, 4] (x0, y0, x1, y1 in pixels of ``image``, uint8 [H, W, 3])."""
        height, width = image.shape[:2]
        boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
        planes = longest_side(image, self.size)
        inner = planes.shape[1:]
        scale = np.array([inner[1] / width, inner[0] / height] * 2, np.float32)
        masks, scores = np.zeros((len(boxes), height, width), np.bool_), np.ones(len(boxes), np.float32)
        if not len(boxes):
            return Masks(masks, scores)
        embeddings = self.embed(planes)
        for start in range(0, len(boxes), _BOXES_AT_ONCE):
            part = slice(start, start + _BOXES_AT_ONCE)
            logits, scores[part] = self.decode(embeddings, boxes[part] * scale)
            for k, logit in enumerate(logits, start):
                full = bilinear(logit, self.size, self.size)[: inner[0], : inner[1]]
                masks[k] = bilinear(full, height, width) > 0
        return Masks(masks, scores)

    def _input(self, role: str) -> str:
        name: str | None = next((name for name in self._inputs if role in name), None)
        if name is None:
            raise InputError(
                f"SAM decoder: no input named like '{role}' among {', '.join(self._inputs)}; export it with `onnxptq "
                f"export sam`"
            )
        return name


class LavtPredictor:
    """Image and sentence to one mask at the model's size, with LAVT's pre-processing."""

    def __init__(
        self, model: Source, tokenizer: WordPiece, *, executor: Executor | None = None, threads: int | None = None
    ) -> None:
        """``tokenizer`` must have the model's vocabulary."""
        self._made_of = partial(LavtPredictor, model, tokenizer, executor=executor, threads=threads)
        self._session = _start(model, "LAVT", executor, threads)
        inputs = {i.name: i for i in self._session.get_inputs()}
        self._image = next((name for name, i in inputs.items() if len(i.shape) == 4), None)
        text = [name for name, i in inputs.items() if len(i.shape) == 2]
        self._ids = next((name for name in text if "id" in name), None)
        self._attention = next((name for name in text if "mask" in name), None)
        if self._image is None or self._ids is None:
            raise InputError(f"LAVT: expected inputs image, input_ids and attention_mask, found {', '.join(inputs)}")
        self.size = _side(inputs[self._image].shape, "LAVT")
        self._tokenizer = tokenizer

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Opened anew in another process."""
        return self._made_of, ()

    def mask(self, image: Array, text: str) -> Array:
        """Mask, bool [S, S], of the object that ``text`` names in ``image`` (uint8 [H, W, 3], stretched to S x S)."""
        if image.shape[:2] != (self.size, self.size):
            image = np.asarray(Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR))
        return self.mask_of_planes(image.transpose(2, 0, 1), text)

    def mask_of_planes(self, planes: Array, text: str) -> Array:
        """The same from RGB planes uint8 [3, S, S]."""
        ids, attention = self._tokenizer.batch([text])
        feeds = {self._image: imagenet(planes)[None], self._ids: ids}
        if self._attention is not None:
            feeds[self._attention] = attention
        logits = self._session.run(None, feeds)[0]
        mask: Array = logits[0].argmax(0).astype(np.bool_) if logits.shape[1] > 1 else logits[0, 0] > 0
        return mask


def _side(shape: list[Any], name: str) -> int:
    height, width = shape[2:]
    if not isinstance(height, int) or height != width:
        raise InputError(f"{name}: its image input is {shape}; a fixed square size is needed")
    return height


def _start(source: Source, role: str, executor: Executor | None, threads: int | None) -> Any:
    """A session, or a one-sentence error about the file."""
    try:
        return session(source, executor=executor, threads=threads)
    except InputError:
        raise
    except Exception as error:
        name = f"{role} {source}" if isinstance(source, (str, Path)) else role
        raise InputError(f"{name}: onnxruntime does not load it: {one_line(error)}") from None
