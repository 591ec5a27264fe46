"""Targets in their own runtimes, beside the files of others: `python -m benchmarks.runtimes FOLDER [graphs...]`.

Each figure is taken in the runtime that the file is for, one thread: CPU time against FP32 in turns, and SQNR against
FP32 there on held-out inputs. NNCF's file is made where nncf is installed; a runtime that is not installed is named and
left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from benchmarks import peers
from benchmarks.graphs import GRAPHS, Graph
from benchmarks.measure import load, machine, sqnr
from onnxptq import Quantizer
from onnxptq.errors import InputError
from onnxptq.report.text import markdown_table
from onnxptq.running.runtimes import require, runs
from onnxptq.targets.executed import executed
from onnxptq.targets.target import Target

PEERS = ("onnxruntime static U8S8 per channel, MatMul+Gemm+Conv", "onnxruntime dynamic per channel")
Make = Callable[[Graph, Path], None]


def ours(target: str, bits: str, recipe: str) -> Make:
    """Our file for a target."""

    def make(graph: Graph, out: Path) -> None:
        quantizer = Quantizer(graph.path, recipe=recipe, bits=bits, target=target, threads=1)
        quantizer.calibrate(graph.calibration)
        quantizer.quantize().save(out)

    return make


def nncf(graph: Graph, out: Path) -> None:
    """NNCF's post-training quantization of the same model, for transformers."""
    import nncf as library
    import openvino

    data = library.Dataset(graph.calibration)
    model = openvino.Core().read_model(graph.path)
    made = library.quantize(model, data, subset_size=len(graph.calibration), model_type=library.ModelType.TRANSFORMER)
    openvino.save_model(made, out.with_suffix(".xml"), compress_to_fp16=False)


def others() -> Mapping[str, Make]:
    """Files of onnxruntime's own quantizers."""
    return {row.name: row.make for row in peers.rows() if row.name in PEERS}


def compare(graph: Graph, runtime: str, path: Path, rounds: int) -> list[str]:
    """Cells of a row: times faster, SQNR, products in integers and in floats."""
    proto = onnx.load(path)
    original, other = runs(runtime, [onnx.load(graph.path), proto], graph.held_out[:4], rounds=rounds)
    first = proto.graph.output[0].name
    ratio = sqnr(graph, [one[first] for one in original.outputs], [one[first] for one in other.outputs])
    found = executed(proto, Target.load(runtime))
    counts = f"{sum(found.integer.values())} / {sum(found.floats.values())}"
    return [f"{other.faster(original):.2f}", f"{ratio:.1f}", counts]


def compare_nncf(graph: Graph, path: Path, rounds: int) -> list[str]:
    """The same for NNCF's file, which is no ONNX: OpenVINO runs it beside the FP32 model."""
    import statistics
    import time

    import numpy as np
    import openvino

    core, settings = openvino.Core(), {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    both = [core.compile_model(core.read_model(p), "CPU", settings) for p in (graph.path, path.with_suffix(".xml"))]
    made: list[list[Any]] = [[np.array(model(sample)[0]) for sample in graph.held_out[:4]] for model in both]
    ratios = []
    for _ in range(rounds):
        spent = []
        for model in both:
            start = time.process_time()
            model(graph.held_out[0])
            spent.append(time.process_time() - start)
        ratios.append(spent[0] / spent[1])
    return [f"{statistics.median(ratios):.2f}", f"{sqnr(graph, *made):.1f}", "-"]


def rows(folder: Path, name: str, bits: str, recipe: str, rounds: int) -> list[list[str]]:
    """The rows of one model."""
    graph, found = load(folder, name), []
    graph.held_out[4:] = []
    files: list[tuple[str, str, Make]] = [("onnxruntime", row, make) for row, make in others().items()]
    files += [("web", row, make) for row, make in others().items()]
    for target in ("onnxptq", "onnxruntime", "web", "openvino"):
        files.append((target, f"onnxptq {recipe} {bits}, target {target}", ours(target, bits, recipe)))
    for runtime, row, make in files:
        path = folder / "runtimes" / name / f"{row.replace(' ', '-').replace(',', '')}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            require(runtime)
            if not path.exists():
                make(graph, path)
            found.append([name, runtime, row, *compare(graph, runtime, path, rounds)])
        except InputError as error:
            found.append([name, runtime, row, str(error), "", ""])
        print(" | ".join(found[-1]), flush=True)
    if find_spec("nncf") is not None and find_spec("openvino") is not None:
        path = folder / "runtimes" / name / "nncf.xml"
        if not path.exists():
            nncf(graph, path)
        found.append([name, "openvino", "NNCF", *compare_nncf(graph, path, rounds)])
        print(" | ".join(found[-1]), flush=True)
    return found


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("graphs", nargs="*", default=["minilm", "sam256", "swin"], help=f"of {', '.join(GRAPHS)}")
    parser.add_argument("--bits", default="w8a8")
    parser.add_argument("--recipe", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    found = [row for name in args.graphs for row in rows(args.folder, name, args.bits, args.recipe, args.rounds)]
    header = ["model", "runtime", "file", "times faster", "SQNR dB", "products in integers / floats"]
    print(markdown_table(header, found))
    print(", ".join(f"{key} {value}" for key, value in machine().items()))


if __name__ == "__main__":
    main()
