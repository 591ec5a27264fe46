"""``onnxptq web``: a page that segments pictures in the browser, with FP32 and with the quantized file."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from onnxptq.cli.output import Output, folder
from onnxptq.cli.values import BITS, RECIPE, add_json, positive, threads
from onnxptq.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxptq.package.site import Picture, Side

SAMPLES = 16
SCENES = (("testA", 45), ("val", 31), ("testA", 4), ("val", 3), ("testB", 1))
"""Drawn scenes, none of which the embedded model was trained or calibrated on."""
LARGE = 800
"""Pixels of an object that may be the first prompt."""


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder for the site")
    parser.add_argument(
        "--encoder",
        nargs="+",
        metavar="FILE",
        help="FLOAT.onnx QUANTIZED.onnx of a Segment Anything encoder (default: the embedded model, quantized now)",
    )
    parser.add_argument(
        "--decoder", nargs="+", metavar="FILE", help="FLOAT.onnx QUANTIZED.onnx of its decoder; one file serves both"
    )
    parser.add_argument(
        "--picture", action="append", type=Path, metavar="FILE", help="a picture on the page; may be repeated"
    )
    parser.add_argument("--ort", type=Path, metavar="DIR", help="onnxruntime-web's folder (default: by node_modules)")
    parser.add_argument("--bits", metavar="wXaY", help=f"widths of the embedded model (default {BITS})")
    parser.add_argument("--recipe", metavar="NAME", help=f"recipe of the embedded model (default {RECIPE})")
    parser.add_argument("--threads", type=threads, metavar="N", help="threads of onnxruntime while quantizing")
    parser.add_argument("--samples", type=positive, metavar="N", help=f"scenes to calibrate on (default {SAMPLES})")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Quantize the embedded model or take the given files, write the site, say how to see it."""
    from onnxptq.package.site import runtime, write_site
    from onnxptq.report.text import megabytes

    ort = runtime(_ort(args))
    _consistent(args)
    pictures = _pictures(args.picture) if args.picture else _scenes()
    replaced = (args.folder / "index.html").exists()
    with folder(args.folder), TemporaryDirectory(prefix="onnxptq-") as files:
        sides = _given(args) if args.encoder else _embedded(args, out, Path(files))
        about = "" if args.encoder else "The embedded model learnt from drawn scenes; photographs are foreign to it."
        sizes = write_site(args.folder, sides, pictures, ort, about=about)
    for side, size in zip(sides, sizes.values(), strict=True):
        out.say(f"{side.name:<10}{megabytes(size)}")
    out.say(f"page      {args.folder / 'index.html'}{', in place of another' if replaced else ''}")
    out.say(f"next      python -m http.server -d {args.folder} 8000; then open http://localhost:8000 in a browser")
    out.emit({"folder": str(args.folder), "bytes": sizes, "names": [side.name for side in sides]})
    return 0


def _ort(args: Namespace) -> Path:
    """onnxruntime-web's folder."""
    from onnxptq.running.runtimes import PACKAGE, web_package

    found: Path | None = args.ort or web_package()
    if found is None:
        raise InputError(
            f"web: {PACKAGE} is not installed; run `npm install {PACKAGE}` in this folder, or give --ort DIR"
        )
    return found


def _consistent(args: Namespace) -> None:
    """An InputError for options that do not go together."""
    if (args.encoder is None) != (args.decoder is None):
        missing = "--decoder" if args.decoder is None else "--encoder"
        raise InputError(f"web: {missing} is missing; give --encoder FLOAT QUANTIZED and --decoder FLOAT QUANTIZED")
    if args.encoder is None:
        return
    for option in ("bits", "recipe", "samples", "threads"):
        if getattr(args, option) is not None:
            raise InputError(f"web: --{option} is of the embedded model; the given files are quantized already")
    for option, files in (("--encoder", args.encoder), ("--decoder", args.decoder)):
        if len(files) > 2:
            raise InputError(f"web: {option} has {len(files)} files; give FLOAT.onnx QUANTIZED.onnx")
        for file in files:
            if not Path(file).is_file():
                raise InputError(f"{option} {file}: no such file")
    if len(args.encoder) == len(args.decoder) == 1:
        raise InputError("web: there is nothing to compare; give the quantized file after the float one")


def _given(args: Namespace) -> Sequence[Side]:
    """The user's files, the quantized side named by what its file says of itself."""
    from onnxptq.graph.source import parse
    from onnxptq.package.site import Side
    from onnxptq.report.introduction import introduced

    (encoder, *other), (decoder, *last) = args.encoder, args.decoder
    encoders, decoders = (encoder, *(other or [encoder])), (decoder, *(last or [decoder]))
    named = (introduced(parse(file)[0]).get("bits") for file in (*other, *last))
    name = next((bits for bits in named if bits), "quantized")
    return [Side(*one) for one in zip(("FP32", name), map(Path, encoders), map(Path, decoders), strict=True)]


def _embedded(args: Namespace, out: Output, files: Path) -> Sequence[Side]:
    """The embedded model, quantized for the web."""
    from onnxptq.datasets import zoo
    from onnxptq.package.site import Side
    from onnxptq.quantizer import Quantizer

    bits, made = args.bits or BITS, []
    names = ("sam-mini-encoder", "sam-mini-decoder")
    quantizers = [
        Quantizer(
            zoo.path(name),
            bits=bits,
            recipe=args.recipe or RECIPE,
            target="web",
            threads=args.threads,
            progress=out.progress(),
        )
        for name in names
    ]
    for name, q in zip(names, quantizers, strict=True):
        out.say(f"{name} at {bits}")
        q.calibrate(f"zoo:{name}", limit=args.samples or SAMPLES)
        made.append(q.quantize().save(files / f"{name}.onnx"))
    return [Side("FP32", *map(zoo.path, names)), Side(bits, *made)]


def _scenes() -> list[Picture]:
    """Drawn scenes, each with the box of the large object that is nearest to the middle."""
    from onnxptq.datasets import scenes
    from onnxptq.package.site import Picture

    found: list[Picture] = []
    for split, index in SCENES:
        scene = scenes.scene_for(split, index)
        large = [one for one in scene.objects if one.area >= LARGE] or scene.objects
        middle = min(large, key=lambda one: math.hypot(one.cx - scenes.SIZE / 2, one.cy - scenes.SIZE / 2))
        found.append(Picture(f"Scene {len(found) + 1}", scene.image, middle.box))
    return found


def _pictures(paths: Sequence[Path]) -> list[Picture]:
    """The user's pictures."""
    from onnxptq.datasets.images import read_image
    from onnxptq.package.site import Picture

    return [Picture(path.stem, read_image(path)) for path in paths]
