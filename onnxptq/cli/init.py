"""``onnxptq init``: a project file to edit."""

from __future__ import annotations

import json
import re
from argparse import ArgumentParser, Namespace
from pathlib import Path

from onnxptq.cli.output import Output
from onnxptq.cli.values import BITS, add_output
from onnxptq.errors import InputError

NAME = "onnxptq.toml"
HEAD = """\
# A project of onnxptq: `onnxptq run` makes every file below, with a report each and one page over all.
# What did not change since is not made again; a stopped run goes on where it was.

output = "quantized"
"""
MODEL = """
[[models]]
path = {path}
samples = {samples}        # a folder of images, of .npz or of .npy; zoo:MODEL; or synthetic
# limit = 32               # samples to calibrate on
targets = ["onnxptq"]      # one file each; `onnxptq quantize --target` lists them
bits = {bits}
# recipe = "auto"          # `onnxptq quantize --recipe` lists them
# settings = {{ "weights.symmetric" = true }}
# exclude = ["neck"]
# max_loss = 0.5           # promises: the smallest weights that keep them
# max_size = "40MB"
"""


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument("models", metavar="MODEL", nargs="*", help="ONNX models (default: those in this folder)")
    parser.add_argument("--calib", metavar="SRC", default="synthetic", help="samples of all of them, to be edited")
    parser.add_argument(
        "--bits", metavar="wXaY", default=BITS, help=f"bits of weights and activations (default {BITS})"
    )
    add_output(parser, f"file to write (default {NAME})", metavar="FILE", default=NAME)


def run(args: Namespace, out: Output) -> int:
    """Write the file; an existing one is never replaced."""
    from onnxptq.graph.save import write_atomic
    from onnxptq.project import Project

    path = Path(args.output)
    if path.exists():
        raise InputError(f"{path}: is there already; edit it, or give another name with -o")
    found = args.models or sorted(
        one.name for one in Path().glob("*.onnx") if not re.search(r"\.(w\d+a\d+|auto[\d.]+)(\.|$)", one.name)
    )
    if not found:
        raise InputError("no ONNX model in this folder; name one: onnxptq init MODEL.onnx")
    values = {"samples": json.dumps(args.calib), "bits": json.dumps(args.bits)}
    text = HEAD + "".join(MODEL.format(path=json.dumps(str(model)), **values) for model in found)
    write_atomic(path, text)
    try:
        Project.load(path)
    except BaseException:
        path.unlink()
        raise
    out.say(f"{path}: {len(found)} model{'s' if len(found) > 1 else ''}; edit it, then `onnxptq run`")
    return 0
