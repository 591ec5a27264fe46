"""Speed of single ops on one thread: `python -m benchmarks.ops [FOLDER]`.

One table compares matrix products with onnxruntime's FP32 MatMul and MatMulInteger (which maps codes to integers, while
ours map floats to floats), the other attentions with FP32. All files of a row take turns in one process; a figure is
the median of FP32 time / its time. Each instruction set runs in a process of its own, since ``ONNXPTQ_ISA`` applies to
a process. Tables are JSON files under FOLDER, so an interrupted run continues.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.measure import job, machine
from benchmarks.plots import op_bars
from onnxptq import session
from onnxptq.evaluate.records import write_record
from onnxptq.ops import DOMAIN, VERSION, library, schemes, specs
from onnxptq.ops.pack import store_weight
from onnxptq.ops.uniform import affine, affine_codes
from onnxptq.report.text import markdown_table

MODULE = "benchmarks.ops"
LEAST = 0.02
"""Shortest turn in seconds: fast ops run several times."""
Feeds = dict[str, NDArray[Any]]
Job = tuple[str, onnx.ModelProto, Feeds]


@dataclass(frozen=True)
class Coding:
    """Widths, and the coding of activations."""

    weight: int
    activation: int
    scheme: str = "uniform"

    def __str__(self) -> str:
        return f"W{self.weight}A{self.activation}" + (f" {self.scheme}" if self.scheme != "uniform" else "")


CODINGS = (Coding(8, 8), Coding(6, 6), Coding(4, 8), Coding(4, 4), Coding(8, 8, "token"), Coding(4, 4, "table"))
PRODUCTS = ((4096, 768, 768), (4096, 768, 3072), (4096, 3072, 768), (196, 384, 1536))


@dataclass(frozen=True)
class Attention:
    """An attention of a known model."""

    name: str
    batch: int
    tokens: int
    width: int
    window: int = 0
    """Side of the window with decomposed relative positions, as in SAM."""


ATTENTIONS = (
    Attention("SAM-B, 25 windows of 14x14", 25 * 12, 196, 64, 14),
    Attention("SAM-B, 64x64 tokens", 12, 4096, 64, 64),
    Attention("MiniLM, 32 tokens", 12, 32, 32),
)


def _model(
    nodes: list[onnx.NodeProto], feeds: Feeds, constants: dict[str, Any], functions: list[onnx.FunctionProto]
) -> onnx.ModelProto:
    held = []
    for name, value in constants.items():
        tensor = value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value)
        tensor.name = name
        held.append(tensor)
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for name, v in feeds.items()
    ]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_empty_tensor_value_info("y")], held)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def _params(scheme: str, bits: int, x: NDArray[np.float32]) -> Any:
    return [*schemes()[scheme].grid(float(x.min()), float(x.max()), bits)][-1]


def product_jobs(m: int, k: int, n: int) -> Iterator[Job]:
    """The same product in FP32, by MatMulInteger, and in our codes."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(k, n)).astype(np.float32)
    yield "FP32", _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": x}, {"w": w}, []), {"x": x}
    left, right = (x * 25 + 128).clip(0, 255).astype(np.uint8), (w * 25).clip(-127, 127).astype(np.int8)
    integer = helper.make_node("MatMulInteger", ["x", "w", "zero"], ["y"])
    yield "MatMulInteger", _model([integer], {"x": left}, {"w": right, "zero": np.uint8(128)}, []), {"x": left}
    for coding in CODINGS:
        p = _params(coding.scheme, coding.activation, x)
        columns = affine(w.min(0), w.max(0), coding.weight)
        constants = {
            "w_codes": store_weight(affine_codes(w, columns.scale, columns.zero, coding.weight), coding.weight),
            "w_scale": columns.scale,
            "w_zero": (columns.zero.astype(np.int16) - 2 ** (coding.weight - 1)).astype(np.int8),
            "bias": np.zeros(n, np.float32),
            **{f"p_{name}": value for name, value in p.inputs().items()},
        }
        attributes: dict[str, Any] = {
            "x_bits": coding.activation,
            "w_bits": coding.weight,
            "x_scheme": coding.scheme,
            "K": k,
            "N": n,
        }
        node, function = specs()["QLinear"].call(["x", *constants], ["y"], rank=2, **attributes)
        yield str(coding), _model([node], {"x": x}, constants, [function]), {"x": x}


def attention_jobs(attention: Attention) -> Iterator[Job]:
    """The same attention in FP32, as exporters write it, and in our codes."""
    rng, a = np.random.default_rng(0), attention
    feeds: Feeds = {name: rng.normal(size=(a.batch, a.tokens, a.width)).astype(np.float32) for name in "qkv"}
    turned = np.ascontiguousarray(feeds["k"].swapaxes(1, 2))
    plain: Feeds = {"q": feeds["q"], "k": turned, "v": feeds["v"]}
    made = helper.make_node
    nodes = [made("MatMul", ["q", "k"], ["products"]), made("Mul", ["products", "scale"], ["scores"])]
    constants: dict[str, Any] = {"scale": np.float32(a.width**-0.5)}
    if a.window:
        for name in ("rel_h", "rel_w"):
            feeds[name] = plain[name] = rng.normal(size=(a.batch, a.tokens, a.window)).astype(np.float32)
        shape = [a.batch, a.tokens, a.window, a.window]
        constants |= {
            "map": np.array(shape),
            "rows": np.array([*shape[:3], 1]),
            "columns": np.array([*shape[:2], 1, a.window]),
        }
        constants["flat"] = np.array([a.batch, a.tokens, a.tokens])
        nodes += [
            made("Reshape", ["scores", "map"], ["seen"]),
            made("Reshape", ["rel_h", "rows"], ["h"]),
            made("Reshape", ["rel_w", "columns"], ["w"]),
            made("Add", ["seen", "h"], ["lower"]),
            made("Add", ["lower", "w"], ["both"]),
            made("Reshape", ["both", "flat"], ["all"]),
        ]
    nodes += [made("Softmax", ["all" if a.window else "scores"], ["p"], axis=-1), made("MatMul", ["p", "v"], ["y"])]
    yield "FP32", _model(nodes, plain, constants, []), plain
    for bits, scheme in ((8, "uniform"), (6, "uniform"), (4, "uniform"), (8, "token"), (4, "token")):
        static: dict[str, Any] = {}
        for name in "qkv":
            p = _params("uniform", bits, feeds[name])
            if scheme == "uniform":
                static |= {f"{name}_scale": p.scale, f"{name}_zero": p.zero}
        if scheme == "uniform":
            static["p0"] = np.float32(1 / (2**bits - 1))
        names = [
            name if name in feeds or name in static else None
            for name in (n.rstrip("?") for n in specs()["QAttention"].inputs)
        ]
        attributes: dict[str, Any] = {f"{name}_bits": bits for name in "qkvp"} | {
            "qk_scheme": scheme,
            "v_scheme": scheme,
        }
        attributes |= {"softmax_scheme": "uniform" if scheme == "uniform" else "row", "scale": a.width**-0.5}
        node, function = specs()["QAttention"].call(names, ["y"], rank=3, **attributes)
        yield f"A{bits}" + (" token" if scheme == "token" else ""), _model([node], feeds, static, [function]), feeds


def measure(jobs: Iterator[Job], rounds: int) -> dict[str, Any]:
    """Milliseconds and speed of every job, in turns."""
    runs, repeats = {}, {}
    for name, model, feeds in jobs:
        opened = session(model, threads=1)
        runs[name] = (opened, feeds)
        opened.run(None, feeds)
        start = time.perf_counter()
        opened.run(None, feeds)
        repeats[name] = max(1, round(LEAST / (time.perf_counter() - start)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, (opened, feeds) in runs.items():
            start = time.process_time()
            for _ in range(repeats[name]):
                opened.run(None, feeds)
            times[name].append((time.process_time() - start) / repeats[name])
    base = np.array(times["FP32"])
    return {
        name: {"ms": float(np.median(t)) * 1e3, "speed": float(np.median(base / np.array(t)))}
        for name, t in times.items()
    }


TABLES = ("products", "attentions")


def tables(kind: str, rounds: int) -> dict[str, Any]:
    """All rows of a table, with the instruction set of this process."""
    if kind == "products":
        rows = {"x".join(map(str, shape)): measure(product_jobs(*shape), rounds) for shape in PRODUCTS}
    else:
        rows = {attention.name: measure(attention_jobs(attention), rounds) for attention in ATTENTIONS}
    return {"isa": library.isa(), "rows": rows}


def text(kind: str, rows: dict[str, Any]) -> str:
    """Markdown of one table."""
    lines = [
        [row, *(f"{r['ms']:.2f} ms" if name == "FP32" else f"{r['speed']:.2f}x" for name, r in found.items())]
        for row, found in rows.items()
    ]
    names = next(iter(rows.values()))
    return markdown_table(["rows x depth x columns" if kind == "products" else "attention", *names], lines)


def main() -> None:
    """Print the tables; write FOLDER/ops.json and FOLDER/ops.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/bench"))
    parser.add_argument("--isa", nargs="+", help="instruction sets (default: all of this CPU but the portable one)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of FP32 and all others")
    parser.add_argument("--measure", nargs=2, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        kind, path = args.measure
        write_record(Path(path), tables(kind, args.rounds))
        return
    found: dict[str, dict[str, Any]] = {}
    print("; ".join(f"{key}: {value}" for key, value in machine().items()))
    for isa in args.isa or [name for name in reversed(library.isas()) if name != "portable"]:
        os.environ["ONNXPTQ_ISA"] = isa
        for kind in TABLES:
            path = args.folder / "ops" / f"{isa}.{kind}.json"
            record = job(path, MODULE, "--measure", kind, str(path), "--rounds", str(args.rounds))
            if "error" in record:
                raise SystemExit(record["error"])
            found.setdefault(record["isa"], {})[kind] = record["rows"]
            print(f"\n{kind}, one thread, {record['isa']}: times as fast as FP32, median of {args.rounds} turns\n")
            print(text(kind, record["rows"]), flush=True)
    write_record(args.folder / "ops.json", {"machine": machine(), "tables": found})
    op_bars(found, args.folder / "ops.png", f"{machine()['cpu']}, one thread, onnxruntime {machine()['onnxruntime']}")


if __name__ == "__main__":
    main()
