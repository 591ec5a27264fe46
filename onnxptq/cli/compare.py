"""``onnxptq compare``: two models on the same samples."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_run, add_samples, names, positive

if TYPE_CHECKING:
    from onnxptq.running.runner import Cut, Sample

RUNTIMES = ("onnxruntime", "onnxptq", "web", "openvino")
"""Plain onnxruntime, onnxruntime with our library, onnxruntime-web in Node, OpenVINO."""


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument("reference", metavar="REF", help="the model to compare with, usually the FP32 one")
    parser.add_argument("quantized", metavar="QUANT", help="the model to judge")
    parser.add_argument(
        "--layers", action="store_true", help="also the error of every linear, convolution and attention, by depth"
    )
    parser.add_argument(
        "--runtime",
        type=names,
        metavar="NAME,..",
        help=f"run both in these runtimes, and time them in turns: {', '.join(RUNTIMES)}",
    )
    parser.add_argument(
        "--runs", type=positive, default=7, metavar="N", help="timed runs of each with --runtime (default 7)"
    )
    add_samples(parser, "--data")
    add_run(parser)


def run(args: Namespace, out: Output) -> int:
    """SQNR, cosine, largest error per output; for masks the agreement."""
    from onnxptq.calibration.padding import unpadded
    from onnxptq.cli.samples import SYNTHETIC, found_in, open_for
    from onnxptq.report.text import outputs_table
    from onnxptq.running import compare

    model, structure = found_in(args.reference, args)
    samples = open_for(model, structure, args.data, args)
    if args.runtime:
        return _runtimes(args, list(samples), unpadded(model, structure.masks), out)
    names = args.reference, args.quantized
    how = {"cut": unpadded(model, structure.masks), "executor": args.executor, "threads": args.threads}
    found = compare.models(args.reference, args.quantized, samples, names=names, **how)
    out.say(f"{args.quantized} against {args.reference} on {samples.name}\n\n{outputs_table(found)}")
    data = {"samples": samples.name, "outputs": {name: one.to_json() for name, one in found.items()}}
    if args.layers:
        made = {one.output for one in structure.linears.values()} | {one.output for one in structure.convs.values()}
        made |= {one.output for one in structure.attentions.values()}
        order = [t.name for node in model.graph.nodes for t in node.outputs if t.name in made]
        pairs = [(name, name) for name in order]
        layers = compare.layers(model.to_proto, args.quantized, pairs, list(samples), **how)
        out.say(
            "\n"
            + (
                outputs_table(layers, title="layer")
                if layers
                else "no inner tensor carries the same name in both models"
            )
        )
        data["layers"] = {name: one.to_json() for name, one in layers.items()}
    if args.data == "synthetic":
        out.warn(SYNTHETIC)
    out.emit(data)
    return 0


def _runtimes(args: Namespace, samples: Sequence[Sample], cut: Cut, out: Output) -> int:
    """A row for each runtime: errors and speed against the reference there, and what was multiplied in integers."""
    from onnxptq.cli.samples import SYNTHETIC
    from onnxptq.graph.source import parse
    from onnxptq.report.text import decibels, table
    from onnxptq.running.compare import outputs
    from onnxptq.running.masks import pictures
    from onnxptq.running.runtimes import require, runs
    from onnxptq.targets.executed import executed
    from onnxptq.targets.target import Target

    for name in args.runtime:
        require(name)
    protos = [parse(path)[0] for path in (args.reference, args.quantized)]
    rows, entries = [], []
    for name in args.runtime:
        original, ours = runs(name, protos, samples, rounds=args.runs)
        both = [
            [cut(one, sample) for sample, one in zip(samples, held.outputs, strict=True)] for held in (original, ours)
        ]
        found = outputs(*both, pictures=map(pictures, samples))
        products, faster = executed(protos[1], Target.load(name)), ours.faster(original)
        ratios = [one.sqnr for one in found.values() if one.sqnr is not None]
        masks = [100 * one.agreement for one in found.values() if one.agreement is not None]
        rows.append(
            [
                name,
                decibels(min(ratios)) if ratios else "-",
                f"{min(masks):.2f}" if masks else "-",
                f"{faster:.2f}",
                ", ".join(f"{count} {op}" for op, count in sorted(products.integer.items())) or "none",
                ", ".join(f"{count} {op}" for op, count in sorted(products.floats.items())) or "none",
            ]
        )
        figures = {key: one.to_json() for key, one in found.items()}
        entries.append({"runtime": name, "faster": faster, "products": asdict(products), "outputs": figures})
    header = ["runtime", "SQNR dB", "masks agree %", "times faster", "products in integers", "in floats"]
    out.say(f"{args.quantized} against {args.reference} in the same runtime, one thread\n")
    out.say(table(header, rows, right=(1, 2, 3)))
    out.say(f"\ntimes faster: median of {args.runs} runs in turns, by CPU time; the worst output is shown")
    if args.data == "synthetic":
        out.warn(SYNTHETIC)
    out.emit({"runs": args.runs, "runtimes": entries})
    return 0
