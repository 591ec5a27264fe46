"""``onnxptq library``: the path of the compiled op library."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_json
from onnxptq.errors import InputError


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument("--isa", action="store_true", help="print the instruction set it would use here instead")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """One line: the path, ready for ``register_custom_ops_library``."""
    from onnxptq.ops import library

    path = library.path()
    if path is None:
        raise InputError(
            "no native library: this installation was built without a C++ compiler; artifacts run through their "
            "function bodies"
        )
    isa = library.isa()
    out.emit({"path": str(path), "isa": isa, "isas": library.isas()})
    if not out.json:
        out.say(str(isa) if args.isa else str(path))
    return 0
