"""``onnxptq sensitivity``: which layers cost the outputs most, and the exclusions that would help most."""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output, writable
from onnxptq.cli.values import add_alias, add_json, add_model, add_samples, add_workers, positive, size, threads
from onnxptq.errors import InputError

if TYPE_CHECKING:
    from onnxptq.pipeline.sensitivity import Layer, Sensitivity

SHOWN = 20
NAMED = 3


def add(parser: ArgumentParser) -> None:
    """Options."""
    add_model(parser)
    add_samples(parser, "--calib")
    parser.add_argument("--top", type=positive, default=SHOWN, metavar="N", help=f"print N layers (default {SHOWN})")
    parser.add_argument("--report", type=Path, metavar="OUT.html", help="write a page with a bar for each layer")
    add_alias(parser, "--page", "--report")
    parser.add_argument("--threads", type=threads, metavar="N", help="threads of onnxruntime")
    parser.add_argument("--memory-limit", type=size, metavar="4GB", help="limit for the tensors held at a time")
    add_workers(parser)
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Fold the model as the recipe does, measure every site, print the layers in order of their share."""
    from onnxptq.bits import Bits
    from onnxptq.cli.quantize import quantizer
    from onnxptq.cli.samples import SYNTHETIC
    from onnxptq.cli.values import BITS
    from onnxptq.graph.save import write_atomic
    from onnxptq.pipeline.sensitivity import by_layer
    from onnxptq.report.sensitivity import page
    from onnxptq.report.text import table
    from onnxptq.workers import opened

    bits = Bits.parse(args.bits or BITS)
    if bits.average is not None:
        raise InputError(f"--bits {args.bits}: give the widths whose errors count, for example w4a4")
    if args.report is not None:
        writable(args.report)
    with opened(args.workers, args.engine) as workers:
        found = quantizer(args, out, workers=workers).sensitivities(
            args.calib, limit=args.samples, preprocess=args.preprocess, memory_limit=args.memory_limit
        )
    layers = by_layer(found, bits)
    if args.calib == "synthetic":
        out.warn(SYNTHETIC)
    rows = [[one.name, f"{one.share:.1%}", f"{one.weight:.1%}", f"{one.rest:.1%}"] for one in layers[: args.top]]
    out.say(f"Shares of the outputs' squared error at {bits}:\n")
    out.say(table(["layer", "share", "weight", "activations"], rows, right=(1, 2, 3)))
    out.say("\n" + advice(layers))
    if args.report is not None:
        write_atomic(args.report, page(layers, str(bits), args.model).encode(errors="backslashreplace"))
    out.emit(
        {
            "bits": str(bits),
            "layers": [{"layer": one.name, "share": one.share, "weight": one.weight} for one in layers],
            "exclude": patterns(layers),
            "sites": [_site(key, one) for key, one in found.items()],
        }
    )
    return 0


def _site(key: str, one: Sensitivity) -> dict[str, Any]:
    return {
        "site": key,
        "role": one.site.role.value,
        "size": one.size,
        "errors": {str(w): e for w, e in one.errors.items()},
    }


def patterns(layers: list[Layer]) -> list[str]:
    """Regular expressions that exclude the worst layers."""
    return [f"^{re.escape(one.name)}:" for one in layers[:NAMED] if one.share > 0]


def advice(layers: list[Layer]) -> str:
    """The exclusions that help most, and how much."""
    lines, left = [], 1.0
    for one, pattern in zip(layers, patterns(layers), strict=False):
        left -= one.share
        lines.append(f"  --exclude '{pattern}'   the rest has {max(left, 0):.1%} of the error")
    return "\n".join(["Exclusions that help most, each added to those before:", *lines])
