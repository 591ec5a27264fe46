"""A text encoder with trained weights: `python -m benchmarks.text FOLDER [--doc FILE]` prints Markdown.

all-MiniLM-L6-v2, 8 sentences of calibration and 8 others: median SQNR and cosine over the tokens other than padding,
and the true bits of an input's element, with its group index and its share of ranges at run time, averaged over all
quantized inputs (of linears; of attention). Each row is kept in FOLDER, so an interrupted run continues; `--doc` writes
the table between the marks of a file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.graphs import Graph
from benchmarks.measure import counted, load, outputs, plain_session, references, sqnr
from benchmarks.peers import Row, rows, stem
from benchmarks.ptq4ris import write
from onnxptq.evaluate.records import write_record
from onnxptq.quantizer import Quantizer
from onnxptq.report.data import Report
from onnxptq.report.text import markdown_table
from onnxptq.running.sessions import session
from onnxptq.structure import Role

MARKS = ("<!-- text -->", "<!-- /text -->")
BITS = ("w8a8", "w6a6", "w4a4")
PEERS = (
    "onnxruntime static (default)",
    "onnxruntime static U8S8 per channel, MatMul+Gemm+Conv",
    "onnxruntime dynamic per channel",
)
SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "rtn": ("rtn", {}),
    "ptq4vit": ("ptq4vit", {}),
    "repq-vit": ("repq-vit", {}),
    "ptq4ris": ("ptq4ris", {}),
    "ptq4ris, extrema of the groups": ("ptq4ris", {"ranges": "minmax"}),
    "ptq4ris, two groups": ("ptq4ris", {"activations.groups": "2"}),
    "ptq4ris, median + 3 MAD": ("ptq4ris", {"outliers": "median+mad"}),
    "ptq4ris, median + 3 MAD, two groups": ("ptq4ris", {"outliers": "median+mad", "activations.groups": "2"}),
    "auto": ("auto", {}),
}


def true_bits(report: Report, roles: tuple[Role, ...]) -> float:
    """Mean true width of the elements of the sites of these roles."""
    held = [site.bits_per_element for site in report.sites if site.role in roles]
    return float(np.mean(held)) if held else 32.0


def cosine(graph: Graph, expected: list[NDArray[Any]], got: list[NDArray[Any]]) -> float:
    """Median over the held-out inputs."""
    pairs = [
        (a.reshape(-1).astype(np.float64), b.reshape(-1))
        for a, b in zip(counted(graph, expected), counted(graph, got), strict=True)
    ]
    return float(np.median([a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-30) for a, b in pairs]))


def ours(folder: Path, graph: Graph, expected: list[NDArray[Any]], name: str, bits: str) -> dict[str, Any]:
    """One of our rows."""
    recipe, settings = SETTINGS[name]
    quantizer = Quantizer(graph.path, recipe=recipe, bits=bits, settings=settings, threads=1)
    quantizer.calibrate(graph.calibration)
    found = quantizer.quantize()
    got = outputs(session(found.model, threads=1), graph.held_out)
    return {
        "sqnr": sqnr(graph, expected, got),
        "cosine": cosine(graph, expected, got),
        "linear": true_bits(found.report, (Role.LINEAR_INPUT, Role.GELU)),
        "attention": true_bits(found.report, (Role.QUERY, Role.KEY, Role.SOFTMAX, Role.VALUE)),
        "mib": found.model.ByteSize() / 2**20,
    }


def theirs(folder: Path, graph: Graph, expected: list[NDArray[Any]], row: Row) -> dict[str, Any]:
    """One of onnxruntime's rows: the float operands of a dynamic model's attention have 32 bits."""
    out = folder / f"{stem(row)}.onnx"
    row.make(graph, out)
    got = outputs(plain_session(out, optimize=False), graph.held_out)
    dynamic = "dynamic" in row.name
    return {
        "sqnr": sqnr(graph, expected, got),
        "cosine": cosine(graph, expected, got),
        "linear": 8.0,
        "attention": 32.0 if dynamic else 8.0,
        "mib": out.stat().st_size / 2**20,
    }


def lines(folder: Path) -> Iterator[list[str]]:
    """The table of the finished rows."""
    for path, head in places(folder):
        if path.exists():
            f = json.loads(path.read_text())
            widths = [f"{f['linear']:.2f}", f"{f['attention']:.2f}"]
            yield [*head, f"{f['sqnr']:.1f}", f"{f['cosine']:.4f}", *widths, f"{f['mib']:.1f}"]


def places(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Files of the rows, with the labels of each row."""
    for name in PEERS:
        yield folder / f"{stem(peer(name))}.json", ["8 bits", name]
    for bits in BITS:
        for name in SETTINGS:
            yield folder / f"{name.replace(' ', '-')}-{bits}.json", [bits, name]


def peer(name: str) -> Row:
    """A row of the comparison with peers."""
    return next(row for row in rows() if row.name == name)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", nargs="+", help="only these rows")
    parser.add_argument("--again", action="store_true", help="make them anew")
    parser.add_argument("--doc", type=Path)
    args = parser.parse_args()
    graph = load(args.folder, "minilm")
    expected = references(graph, args.folder / "fp32.npz")
    for path, (bits, name) in places(args.folder):
        if (args.rows is None or name in args.rows) and (args.again or not path.exists()):
            found = (
                theirs(args.folder, graph, expected, peer(name))
                if name in PEERS
                else ours(args.folder, graph, expected, name, bits)
            )
            write_record(path, found)
            print(bits, name, found, flush=True)
    head = ["", "", "SQNR, dB", "cosine", "bits, inputs of linears", "bits, attention", "MiB"]
    table = markdown_table(head, lines(args.folder))
    if args.doc is not None:
        write(args.doc, table, MARKS)
    print(table)


if __name__ == "__main__":
    main()
