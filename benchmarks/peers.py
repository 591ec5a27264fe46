"""Accuracy against onnxruntime's own quantizers: `python -m benchmarks.peers FOLDER [graphs...]` prints Markdown.

Each row is made in a process of its own and written to FOLDER/peers/GRAPH/ROW.json, so an interrupted run continues.
SQNR is the median over held-out inputs; padding tokens of text are left out. `dB` is a default session, `dB in float`
the same file without integer kernels: graph optimisation off for the peers, function bodies for ours.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime as ort

from benchmarks.coverage import coverage
from benchmarks.graphs import GRAPHS, Graph, Sample
from benchmarks.measure import MEBI, job, load, machine, outputs, peak_mib, plain_session, references, sqnr
from onnxptq.evaluate.records import write_record
from onnxptq.report.text import markdown_table

PRODUCTS = ["MatMul", "Gemm", "Conv"]
RECIPES = ("minmax", "percentile", "omse", "auto")
BITS = ("w8a8", "w6a6", "w4a8", "w4a4")


@dataclass(frozen=True)
class Row:
    """One way to quantize a model."""

    name: str
    make: Callable[[Graph, Path], None]
    ours: bool = False


class Reader:
    """The reader of samples for onnxruntime's calibration."""

    def __init__(self, samples: list[Sample]) -> None:
        self._left = iter(samples)

    def get_next(self) -> Sample | None:
        return next(self._left, None)


@contextmanager
def _prepared(path: Path, out: Path) -> Iterator[str]:
    """onnxruntime's documented first step."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    made = out.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(made), skip_symbolic_shape=True)
    yield str(made)
    made.unlink()


def static(path: Path, out: Path, samples: list[Sample], **options: Any) -> None:
    """onnxruntime's static quantization; types and methods are given by name."""
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static

    given = {key: QuantType[value] if key.endswith("_type") else value for key, value in options.items()}
    if "calibrate_method" in given:
        given["calibrate_method"] = CalibrationMethod[given["calibrate_method"]]
    with _prepared(path, out) as prepared:
        quantize_static(prepared, str(out), Reader(samples), **given)


def dynamic(path: Path, out: Path, **options: Any) -> None:
    """onnxruntime's dynamic quantization."""
    from onnxruntime.quantization import quantize_dynamic

    with _prepared(path, out) as prepared:
        quantize_dynamic(prepared, str(out), **options)


def _static(name: str, **options: Any) -> Row:
    return Row(f"onnxruntime static {name}", lambda graph, out: static(graph.path, out, graph.calibration, **options))


def _dynamic(name: str, **options: Any) -> Row:
    return Row(f"onnxruntime dynamic{name}", lambda graph, out: dynamic(graph.path, out, **options))


def _ours(recipe: str, bits: str, format: str = "native") -> Row:
    def make(graph: Graph, out: Path) -> None:
        from onnxptq import Quantizer

        quantizer = Quantizer(graph.path, recipe=recipe, bits=bits, format=format)
        quantizer.calibrate(graph.calibration)
        quantizer.quantize().save(out)

    return Row(f"onnxptq {recipe} {bits}{'' if format == 'native' else f' {format}'}", make, ours=True)


def rows() -> Iterator[Row]:
    """Every row of the table."""
    u8s8 = {"activation_type": "QUInt8", "weight_type": "QInt8", "per_channel": True}
    u8u8 = {"activation_type": "QUInt8", "weight_type": "QUInt8", "per_channel": True}
    contrib = {"extra_options": {"UseQDQContribOps": True}, "op_types_to_quantize": PRODUCTS, "per_channel": True}
    yield _static("(default)")
    yield _static("U8S8 per channel", **u8s8)
    yield _static("U8S8 per channel, 7-bit weights", **u8s8, reduce_range=True)
    yield _static("U8U8 per channel", **u8u8)
    yield _static("U8S8 percentile", **u8s8, calibrate_method="Percentile")
    yield _static("U8S8 per channel, MatMul+Gemm+Conv", **u8s8, op_types_to_quantize=PRODUCTS)
    yield _static("W4A8, MatMul+Gemm+Conv", **contrib, activation_type="QUInt8", weight_type="QInt4")
    yield _static("W4A4, MatMul+Gemm+Conv", **contrib, activation_type="QUInt4", weight_type="QInt4")
    yield _dynamic(" (default)")
    yield _dynamic(" per channel", per_channel=True)
    for bits in BITS:
        for recipe in RECIPES:
            yield _ours(recipe, bits)
    yield _ours("auto", "w8a8", "qdq")


def stem(row: Row) -> str:
    """A row's file name."""
    return re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")


def measure(folder: Path, name: str, row: Row) -> None:
    """Make the row's file and its record."""
    graph = load(folder, name)
    place = folder / "peers" / name
    out = place / f"{stem(row)}.onnx"
    place.mkdir(parents=True, exist_ok=True)
    wall, cpu = time.perf_counter(), time.process_time()
    row.make(graph, out)
    wall, cpu, peak = time.perf_counter() - wall, time.process_time() - cpu, peak_mib()
    expected = references(graph, place / "fp32.npz")
    real, exact = (sqnr(graph, expected, outputs(session, graph.held_out)) for session in _sessions(row, out))
    record = {
        "graph": name,
        "row": row.name,
        "ours": row.ours,
        "sqnr": real,
        "sqnr_in_float": exact,
        "coverage": str(coverage(out)),
        "mib": out.stat().st_size / MEBI,
        "seconds": wall,
        "cpu_seconds": cpu,
        "peak_mib": peak,
    }
    write_record(place / f"{stem(row)}.json", record)


def _sessions(row: Row, path: Path) -> Iterator[ort.InferenceSession]:
    """A default session, then one that computes in float with decoded values."""
    if row.ours:
        from onnxptq import session

        yield session(path, threads=1)
        yield session(path, executor="function", threads=1)
    else:
        yield plain_session(path)
        yield plain_session(path, optimize=False)


def table(records: list[dict[str, Any]], original: float) -> str:
    """Markdown of one graph."""
    lines = []
    for record in records:
        if "error" in record:
            lines.append([record["row"], f"fails: {record['error']}", "", "", "", "", ""])
            continue
        figures = [f"{record[key]:.1f}" for key in ("sqnr", "sqnr_in_float")]
        size = f"{record['mib']:.1f} ({original / record['mib']:.2f}x)"
        lines.append(
            [
                record["row"],
                *figures,
                record["coverage"],
                size,
                f"{record['cpu_seconds']:.0f}",
                f"{record['peak_mib']:.0f}",
            ]
        )
    return markdown_table(
        ["", "dB", "dB in float", "computed from codes", "MiB (smaller than FP32)", "CPU s", "peak MiB"], lines
    )


def main() -> None:
    """Print the tables and write FOLDER/peers.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("graphs", nargs="*", default=["minilm", "sam256", "swin"], help=f"of {', '.join(GRAPHS)}")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows whose name matches")
    parser.add_argument("--again", default=None, metavar="REGEX", help="make rows anew whose name matches")
    parser.add_argument("--row", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    chosen = [row for row in rows() if re.search(args.only, row.name)]
    if args.row is not None:
        measure(args.folder, args.graphs[0], next(row for row in rows() if stem(row) == args.row))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for name in args.graphs:
        graph = load(args.folder, name)
        found[name] = []
        for row in chosen:
            path = args.folder / "peers" / name / f"{stem(row)}.json"
            if args.again is not None and re.search(args.again, row.name):
                path.unlink(missing_ok=True)
            record = job(path, "benchmarks.peers", str(args.folder), name, "--row", stem(row))
            found[name].append({"row": row.name, **record})
        print(f"\n{name}: {len(graph.calibration)} calibration and {len(graph.held_out)} held-out inputs\n")
        print(table(found[name], graph.path.stat().st_size / MEBI), flush=True)
    write_record(args.folder / "peers.json", {"machine": machine(), "graphs": found})
    print("\n" + "; ".join(f"{key}: {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
