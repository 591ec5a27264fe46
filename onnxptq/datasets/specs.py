"""Calibration data named in one word: `zoo:MODEL`, `sam:IMAGES+INSTANCES.json+ENCODER.onnx`, `refcoco:FOLDER`.

Which half of Segment Anything is calibrated follows from the model's inputs. The decoder's samples are made as the
papers make them: embeddings of the FP32 encoder, and all boxes of an image in one batch; a second json with a
detector's results gives detected instead of true boxes. RefCOCO gives true (image, sentence) pairs of the train split,
one sentence a ref.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from onnxptq.datasets import zoo
from onnxptq.datasets.coco import Coco
from onnxptq.datasets.draw import Draw, How
from onnxptq.datasets.files import require_folder
from onnxptq.datasets.images import read_image
from onnxptq.datasets.prompts import Feeds, box_feeds, imagenet, longest_side, sam_input
from onnxptq.datasets.refcoco import Expression, RefCoco
from onnxptq.datasets.wordpiece import WordPiece
from onnxptq.datasets.zoo import Runs
from onnxptq.errors import InputError

KINDS = ("zoo", "sam", "refcoco")
COUNT = 32
"""Default number of samples, as in the papers."""

MOST_BOXES = 100

Shapes = Mapping[str, Sequence[Any]]
"""A model's inputs: name to shape."""

Maker = Callable[[], Feeds]


class Named(Sequence[Feeds]):
    """Samples made anew in every walk, and never kept."""

    def __init__(self, name: str, makers: Sequence[Maker]) -> None:
        self.name, self._makers = name, makers

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, index: int) -> Feeds: ...

    @overload
    def __getitem__(self, index: slice) -> Named: ...

    def __getitem__(self, index: int | slice) -> Feeds | Named:
        return Named(self.name, self._makers[index]) if isinstance(index, slice) else self._makers[index]()


class Opened:
    """A session that is opened when it is used; sent to another process it is opened there."""

    def __init__(self, start: Callable[[Path], Runs], path: Path) -> None:
        self._start, self._path = start, path

    def __reduce__(self) -> tuple[type[Opened], tuple[Callable[[Path], Runs], Path]]:
        return Opened, (self._start, self._path)

    @cached_property
    def _session(self) -> Runs:
        return self._start(self._path)

    def run(self, output_names: Sequence[str] | None, input_feed: Feeds) -> list[Any]:
        """See Runs."""
        return self._session.run(output_names, input_feed)

    def get_inputs(self) -> list[Any]:
        """See Runs."""
        return self._session.get_inputs()


def is_named(spec: str) -> bool:
    """True if a calibration spec is one of this module's."""
    return spec.partition(":")[0] in KINDS and ":" in spec


def open_named(
    spec: str, inputs: Shapes, *, count: int | None, seed: int, draw: How = "random", start: Callable[[Path], Runs]
) -> Named:
    """Samples for a model with these ``inputs``; ``start`` opens a session of an encoder."""
    kind, _, rest = spec.partition(":")
    makers = {"zoo": _zoo, "sam": _sam, "refcoco": _refcoco}[kind](
        rest, inputs, Draw(count or COUNT, draw, seed), start
    )
    if not makers:
        raise InputError(f"calibration {spec}: no sample in it")
    return Named(spec, makers)


def _zoo(name: str, inputs: Shapes, draw: Draw, start: Callable[[Path], Runs]) -> list[Maker]:
    count, seed = draw.limit or COUNT, draw.seed
    if name == "sam-mini":
        name = "sam-mini-decoder" if "point_coords" in inputs else "sam-mini-encoder"
    if name == "lavt-mini":
        found = zoo.lavt_calibration(count, seed=seed)
    elif name == "sam-mini-encoder":
        found = zoo.encoder_calibration(count, seed=seed)
    elif name == "sam-mini-decoder":
        found = zoo.decoder_calibration(Opened(start, zoo.path("sam-mini-encoder")), count, seed=seed)
    else:
        raise InputError(f"calibration zoo:{name}: choose zoo:sam-mini or zoo:lavt-mini")
    return [partial(found.__getitem__, i) for i in range(count)]


def _sam(rest: str, inputs: Shapes, draw: Draw, start: Callable[[Path], Runs]) -> list[Maker]:
    match = re.fullmatch(r"(.*?)((?:\+[^+]*\.(?:json|onnx))*)", rest)
    images, files = Path(match[1] if match else rest), (match[2] if match else "").split("+")[1:]
    if "point_coords" not in inputs:
        return _sam_images(images, inputs, draw)
    tables, encoders = [f for f in files if f.endswith(".json")], [f for f in files if f.endswith(".onnx")]
    if not 1 <= len(tables) <= 2 or len(encoders) != 1:
        raise InputError(
            f"calibration sam:{rest}: a decoder needs sam:IMAGES+INSTANCES.json[+RESULTS.json]+ENCODER.onnx"
        )
    data = Coco.load(tables[0], images)
    detected = data.detections(tables[1]) if len(tables) > 1 else None
    encoder = Opened(start, Path(encoders[0]))
    name, size = _image_input({i.name: i.shape for i in encoder.get_inputs()}, encoders[0])
    side = 4 * int(inputs["image_embeddings"][-1])
    spare = {"mask_input": np.zeros((1, 1, side, side), np.float32), "has_mask_input": np.zeros(1, np.float32)}
    makers: list[Maker] = []
    for photo in data:
        found = (
            [d.box for d in detected.get(photo.id, ())]
            if detected is not None
            else [i.box for i in photo.instances if not i.crowd]
        )
        if found:
            makers.append(partial(_prompted, encoder, name, size, photo.path, found[:MOST_BOXES], spare, inputs))
    return draw.of(makers)


def _prompted(
    encoder: Runs, name: str, size: int, path: Path, found: Sequence[Any], spare: Feeds, inputs: Shapes
) -> Feeds:
    """Decoder inputs of one photograph: its boxes in pixels of the encoder's input."""
    image = read_image(path)
    planes = longest_side(image, size)
    scale = np.array([planes.shape[2] / image.shape[1], planes.shape[1] / image.shape[0]] * 2, np.float32)
    feeds = box_feeds(encoder.run(None, {name: sam_input(planes, size)})[0], np.array(found, np.float32) * scale)
    return feeds | {key: value for key, value in spare.items() if key in inputs}


def _sam_images(folder: Path, inputs: Shapes, draw: Draw) -> list[Maker]:
    name, size = _image_input(inputs, "the model")
    files = sorted(
        f for f in require_folder(folder, "images").iterdir() if f.suffix.lower() in (".jpg", ".jpeg", ".png")
    )

    return [partial(_photograph, name, size, file) for file in draw.of(files)]


def _photograph(name: str, size: int, file: Path) -> Feeds:
    return {name: sam_input(longest_side(read_image(file), size), size)}


def _refcoco(rest: str, inputs: Shapes, draw: Draw, start: Callable[[Path], Runs]) -> list[Maker]:
    folder, *options = re.split(r"\+(?=(?:split|partition|images|vocab)=)", rest)
    given = dict(option.split("=", 1) for option in options)
    data = RefCoco.load(
        folder, split=given.get("split", "train"), partition=given.get("partition"), images=given.get("images")
    )
    name, size = _image_input(inputs, "the model")
    length = inputs["input_ids"][1] if "input_ids" in inputs else None
    if not isinstance(length, int):
        raise InputError(f"calibration refcoco:{rest}: the model has no input_ids of a fixed length")
    tokenizer = WordPiece.load(given["vocab"], length) if "vocab" in given else zoo.tokenizer()
    rng = np.random.RandomState(draw.seed)
    by_ref: dict[int, list[int]] = {}
    for i, expression in enumerate(data):
        by_ref.setdefault(expression.ref, []).append(i)
    chosen = [sentences[rng.randint(len(sentences))] for sentences in by_ref.values()]

    masked = "attention_mask" in inputs
    return [partial(_sentence, data.expressions[i], tokenizer, name, size, masked) for i in draw.of(chosen)]


def _sentence(expression: Expression, tokenizer: WordPiece, name: str, size: int, masked: bool) -> Feeds:
    pixels = Image.fromarray(expression.photo.image()).resize((size, size), Image.Resampling.BILINEAR)
    ids, mask = tokenizer.batch([expression.text])
    feeds: Feeds = {name: imagenet(np.asarray(pixels).transpose(2, 0, 1))[None], "input_ids": ids}
    return feeds | ({"attention_mask": mask} if masked else {})


def _image_input(inputs: Shapes, model: str) -> tuple[str, int]:
    """Name and side of the image input."""
    for name, shape in inputs.items():
        if len(shape) == 4 and shape[1] == 3 and isinstance(shape[-1], int) and shape[-1] == shape[-2]:
            return name, shape[-1]
    raise InputError(
        f"calibration: {model} has no square image input of three channels; its inputs are {', '.join(inputs)}"
    )
