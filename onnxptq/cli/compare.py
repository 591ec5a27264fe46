"""``onnxptq compare``: two models on the same samples."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_run, add_samples


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument("reference", metavar="REF", help="the model to compare with, usually the FP32 one")
    parser.add_argument("quantized", metavar="QUANT", help="the model to judge")
    parser.add_argument(
        "--layers", action="store_true", help="also the error of every linear, convolution and attention, by depth"
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
