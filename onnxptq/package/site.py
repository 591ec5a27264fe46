"""A static site that segments pictures in the browser with two models side by side, the original and the quantized."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from onnxptq.errors import InputError
from onnxptq.graph.save import LIMIT, payload, save, write_atomic
from onnxptq.package.sam import input_side, package_decoder, package_encoder
from onnxptq.report.pages import render, source
from onnxptq.report.text import megabytes
from onnxptq.version import __version__

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of onnxruntime-web that the site takes: WebAssembly with SIMD."""
LONGEST = 1024
"""Pixels of the longer side of a picture on the page."""


@dataclass(frozen=True)
class Side:
    """One of the two models that the page compares."""

    name: str
    """On the page: FP32, w8a8."""
    encoder: Path
    decoder: Path


@dataclass(frozen=True)
class Picture:
    """A picture that comes with the page."""

    name: str
    pixels: NDArray[Any]
    """uint8 [H, W, 3]"""
    box: Sequence[int] | None = None
    """The prompt shown first, in pixels; without one a click on the middle."""


def runtime(folder: Path) -> Path:
    """The folder with onnxruntime-web's files: ``folder`` itself or its ``dist``; an InputError if they are missing."""
    for place in (folder, folder / "dist"):
        if all((place / name).is_file() for name in RUNTIME):
            return place
    raise InputError(
        f"--ort {folder}: has no {RUNTIME[0]}; give the folder of the npm package onnxruntime-web, or its dist"
    )


def write_site(
    folder: Path, sides: Sequence[Side], pictures: Sequence[Picture], ort: Path, *, about: str = ""
) -> dict[str, int]:
    """Write the page, its scripts, both models in Segment Anything's own layout, pictures and onnxruntime-web.

    Returns the bytes of each model.
    """
    first, second = (input_side(side.encoder) for side in sides)
    if first != second:
        raise InputError(
            f"{sides[1].encoder}: takes {second} pixels, and {sides[0].encoder} {first}; give one model's files"
        )
    made = [_models(side) for side in sides]
    for name in ("models", "pictures", "ort"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    sizes, given = {}, []
    for key, side, models in zip(("original", "quantized"), sides, made, strict=True):
        files = {part: f"models/{key}-{part}.onnx" for part in models}
        for part, model in models.items():
            save(model, folder / files[part])
        sizes[key] = sum((folder / file).stat().st_size for file in files.values())
        given.append({"key": key, "name": side.name, "size": megabytes(sizes[key]), **files})
    shown = [_picture(folder, number, one) for number, one in enumerate(pictures)]
    for name in RUNTIME:
        shutil.copyfile(ort / name, folder / "ort" / name)
    facts = {"side": first, "longest": LONGEST, "models": given, "pictures": shown}
    for name in ("web.js", "web_worker.js"):
        write_atomic(folder / name, str(source(name)))
    page = render(
        "web.html.j2",
        title=f"Segment Anything, FP32 and {sides[1].name}",
        facts=Markup(json.dumps(facts).replace("<", "\\u003c")),
        models=given,
        pictures=shown,
        about=about,
        version=__version__,
    )
    write_atomic(folder / "index.html", page)
    return sizes


def _models(side: Side) -> dict[str, onnx.ModelProto]:
    """Encoder and decoder, with what is around them."""
    models = {"encoder": package_encoder(side.encoder), "decoder": package_decoder(side.encoder, side.decoder)}
    for part, model in models.items():
        if payload(model) > LIMIT:
            raise InputError(f"{getattr(side, part)}: has more than 2 GB; a browser takes no such file")
    return models


def _picture(folder: Path, number: int, picture: Picture) -> dict[str, Any]:
    """A picture's file, at most ``LONGEST`` pixels wide or high, and what the page knows of it."""
    image = Image.fromarray(picture.pixels)
    box = picture.box
    if max(image.size) > LONGEST:
        scale = LONGEST / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        box = box and [round(edge * scale) for edge in box]
    held = io.BytesIO()
    image.save(held, "PNG")
    file = f"pictures/{number}.png"
    write_atomic(folder / file, held.getvalue())
    return {"file": file, "name": picture.name, "box": box}
