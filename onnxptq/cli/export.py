"""``onnxptq export``: checkpoints to ONNX, compared with torch before any file is kept."""

from __future__ import annotations

import importlib.util
import json
import shutil
from argparse import ArgumentParser, Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from onnxptq.cli.output import Output, folder
from onnxptq.cli.values import add_json, add_output, positive, seed
from onnxptq.errors import ArtifactError, InputError

if TYPE_CHECKING:
    from onnxptq.models.export import Exported

TOLERANCE = 1e-3
"""Largest difference from torch, relative to an output's largest value. Deep models reach 1e-4 by summation order
alone."""


def add(parser: ArgumentParser) -> None:
    """Options."""
    kinds = parser.add_subparsers(metavar="KIND", dest="kind", required=True)
    sam = kinds.add_parser("sam", help="Segment Anything: an encoder and a decoder", allow_abbrev=False)
    sam.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="segment_anything's .pth, or a folder saved by transformers' SamModel",
    )
    sam.add_argument(
        "--model",
        metavar="NAME",
        help="vit_b, vit_l or vit_h; needed with --random-weights, else read off the checkpoint",
    )
    sam.add_argument("--random-weights", type=seed, metavar="SEED", help="instead of a checkpoint, for timing")
    sam.add_argument(
        "--image-size",
        type=positive,
        metavar="N",
        help="side of the input (default: the checkpoint's); position tables are resampled",
    )
    sam.add_argument("--mask-input", action="store_true", help="give the decoder the inputs of a previous mask")
    _add_common(sam, "folder for encoder.onnx and decoder.onnx")
    lavt = kinds.add_parser("lavt", help="LAVT referring segmentation", allow_abbrev=False)
    lavt.add_argument("--checkpoint", type=Path, metavar="FILE", help="official layout, lavt or lavt_one")
    lavt.add_argument(
        "--random-weights", type=seed, metavar="SEED", help="instead of a checkpoint, the released sizes, for timing"
    )
    lavt.add_argument("--image-size", type=positive, metavar="N", default=480, help="side of the input (default 480)")
    lavt.add_argument(
        "--max-tokens", type=positive, metavar="N", default=20, help="length of a sentence in tokens (default 20)"
    )
    lavt.add_argument(
        "--text-heads", type=positive, metavar="N", help="heads of the text encoder (default: 64 channels each)"
    )
    lavt.add_argument("--fusion-heads", type=positive, metavar="N", default=1, help="heads of the fusion (default 1)")
    _add_common(lavt, "file to write")
    zoo = kinds.add_parser(
        "zoo", help="trained zoo checkpoints, stored as the package carries them", allow_abbrev=False
    )
    zoo.add_argument("--sam", type=Path, metavar="FILE", help="sam-mini.safetensors")
    zoo.add_argument("--lavt", type=Path, metavar="FILE", help="lavt-mini.safetensors")
    zoo.add_argument("--vocab", type=Path, metavar="FILE", help="lavt-mini.vocab.txt, copied beside")
    zoo.add_argument(
        "--measure",
        action="store_true",
        help="evaluate what was written on every split and write metrics.json (minutes)",
    )
    add_output(zoo, "folder to write to", metavar="DIR", type=Path, required=True)
    add_json(zoo)


def _add_common(parser: ArgumentParser, about: str) -> None:
    add_output(parser, about, type=Path, required=True)
    parser.add_argument(
        "--exporter",
        choices=("torchscript", "dynamo"),
        default="torchscript",
        help="torchscript (default, opset 17) or dynamo",
    )
    parser.add_argument("--dynamic-batch", action="store_true", help="any number of images a call")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Export, run, compare."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"export needs torch and transformers ({package} is missing): pip install 'onnxptq[models]'"
            )
    with nullcontext() if args.kind == "lavt" else folder(args.output):
        written = {"sam": _sam, "lavt": _lavt, "zoo": _zoo}[args.kind](args)
    files = []
    for one in written:
        gap = check(one)
        data = one.path.with_name(one.path.name + ".data")
        size = one.path.stat().st_size + (data.stat().st_size if data.exists() else 0)
        out.say(f"{one.path}: {size / 2**20:.1f} MiB, difference from torch {gap:.1e}")
        files.append({"path": str(one.path), "bytes": size, "error": gap})
    if args.kind == "zoo" and args.measure:
        _measure(args, out)
    out.emit({"files": files})
    return 0


def check(exported: Exported) -> float:
    """The largest relative difference from torch; above the tolerance, an ArtifactError and no file."""
    from onnxptq.models.export import largest_error
    from onnxptq.running.sessions import session

    names = list(exported.expected)
    found = session(exported.path, executor="function").run(names, exported.feeds)
    error = largest_error(exported, dict(zip(names, found, strict=True)))
    if not error <= TOLERANCE:
        exported.path.unlink()
        raise ArtifactError(f"{exported.path}: onnxruntime differs from torch by {error:.1e} of the largest value")
    return error


def _sam(args: Namespace) -> list[Exported]:
    if (args.checkpoint is None) == (args.random_weights is None):
        raise InputError("export sam: give either --checkpoint FILE or --random-weights SEED")
    encoder, decoder = args.output / "encoder.onnx", args.output / "decoder.onnx"
    options = {"exporter": args.exporter}
    if args.checkpoint is not None and args.checkpoint.is_dir():
        from onnxptq.models.sam import huggingface

        if args.image_size is not None:
            raise InputError("export sam: --image-size cannot be changed for a folder saved by transformers")
        theirs = huggingface.load(args.checkpoint)
        return [
            huggingface.export_encoder(theirs, encoder, dynamic_batch=args.dynamic_batch, **options),
            huggingface.export_decoder(theirs, decoder, mask_input=args.mask_input, **options),
        ]
    from onnxptq.models.sam.build import load_sam, random_sam
    from onnxptq.models.sam.config import preset
    from onnxptq.models.sam.to_onnx import export_decoder, export_encoder

    if args.checkpoint is not None:
        sam = load_sam(args.checkpoint, model=args.model, image_size=args.image_size)
    else:
        sam = random_sam(preset(args.model or "vit_b").at(args.image_size), args.random_weights)
    return [
        export_encoder(sam, encoder, dynamic_batch=args.dynamic_batch, **options),
        export_decoder(sam, decoder, mask_input=args.mask_input, **options),
    ]


def _lavt(args: Namespace) -> list[Exported]:
    from onnxptq.models.lavt.checkpoint import load_lavt
    from onnxptq.models.lavt.config import LavtConfig
    from onnxptq.models.lavt.model import random_lavt
    from onnxptq.models.lavt.to_onnx import export_lavt

    if (args.checkpoint is None) == (args.random_weights is None):
        raise InputError("export lavt: give either --checkpoint FILE or --random-weights SEED")
    if args.output.is_dir():
        raise InputError(f"-o {args.output}: is a directory; give the name of a file")
    if args.checkpoint is None:
        heads = (args.fusion_heads,) * 4
        model = random_lavt(
            LavtConfig(image_size=args.image_size, max_tokens=args.max_tokens, fusion_heads=heads), args.random_weights
        )
    else:
        model = load_lavt(
            args.checkpoint,
            image_size=args.image_size,
            max_tokens=args.max_tokens,
            text_heads=args.text_heads,
            fusion_heads=args.fusion_heads,
        )
    return [export_lavt(model, args.output, exporter=args.exporter, dynamic_batch=args.dynamic_batch)]


def _zoo(args: Namespace) -> list[Exported]:
    from onnxptq.datasets.wordpiece import WordPiece
    from onnxptq.models.zoo.embed import embed_lavt, embed_sam

    if args.sam is None and args.lavt is None:
        raise InputError("export zoo: give --sam FILE, --lavt FILE or both")
    if args.lavt is not None and args.vocab is None:
        raise InputError("export zoo: --lavt needs --vocab FILE, its vocabulary")
    if args.vocab is not None:
        WordPiece.load(args.vocab)
    written = [*(embed_sam(args.sam, args.output) if args.sam else ())]
    if args.lavt:
        written.append(embed_lavt(args.lavt, args.output))
    if args.vocab is not None:
        target = args.output / "lavt-mini.vocab.txt"
        if not (target.exists() and target.samefile(args.vocab)):
            shutil.copyfile(args.vocab, target)
    return written


def _measure(args: Namespace, out: Output) -> None:
    """FP32 figures of every model written, beside it."""
    from onnxptq.evaluate.baseline import measure_lavt, measure_sam
    from onnxptq.graph.save import write_atomic

    path = args.output / "metrics.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for name, given, measure in (("sam-mini", args.sam, measure_sam), ("lavt-mini", args.lavt, measure_lavt)):
        if given is not None:
            found[name] = measure(args.output, out.progress())
    write_atomic(path, (json.dumps(found, indent=1) + "\n").encode())
