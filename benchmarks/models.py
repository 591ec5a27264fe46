"""Speed, size, memory and accuracy of whole models: `python -m benchmarks.models [FOLDER] [graphs...]`.

Speed is a ratio: a quantized file and FP32 onnxruntime take turns in one process; the figure is the median over the
rounds of FP32 time / quantized time (CPU time with one thread, which other load hardly changes; wall time with more).
Memory is the peak of a process that only loads the file and runs it once. Each figure is a JSON file under FOLDER, so
an interrupted run continues.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers
from benchmarks.graphs import GRAPHS, Sample
from benchmarks.measure import MEBI, job, load, machine, peak_mib, plain_session, references, sqnr
from benchmarks.plots import model_dots
from onnxptq.evaluate.records import write_record
from onnxptq.report.text import markdown_table

MODULE = "benchmarks.models"
LEAST = 0.05
"""Shortest measurement in seconds: fast models run several times."""
SLOW = 1.0
"""Seconds of one run above which there is no untimed run before each timed one."""
Run = Callable[[Sample], Any]


@dataclass(frozen=True)
class Variant:
    """A file and its executor."""

    name: str
    engine: str
    row: str = ""
    """The row of ``benchmarks.peers`` that makes the file; "" is the FP32 model."""

    @property
    def stem(self) -> str:
        """A file name."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


FP32 = Variant("onnxruntime FP32", "onnxruntime")
VARIANTS = (
    FP32,
    *(
        Variant(f"onnxruntime {name}", "onnxruntime", f"onnxruntime {name}")
        for name in (
            "static U8S8 per channel",
            "static U8U8 per channel",
            "static U8S8 per channel, MatMul+Gemm+Conv",
            "dynamic per channel",
        )
    ),
    Variant("OpenVINO FP32", "openvino"),
    Variant("OpenVINO, onnxptq auto w8a8 qdq", "openvino", "onnxptq auto w8a8 qdq"),
    *(Variant(f"onnxptq {bits}", "onnxptq", f"onnxptq auto {bits}") for bits in peers.BITS),
)
OTHERS = tuple(
    Variant(f"onnxptq {recipe} {bits}", "onnxptq", f"onnxptq {recipe} {bits}")
    for recipe in peers.RECIPES
    if recipe != "auto"
    for bits in peers.BITS
)
"""Files of other recipes, whose codes run at other speeds."""


def path_of(folder: Path, graph: str, variant: Variant) -> Path:
    """The variant's model file, written first where it is missing."""
    if not variant.row:
        return load(folder, graph).path
    row = next(row for row in peers.rows() if row.name == variant.row)
    record = job(
        folder / "peers" / graph / f"{peers.stem(row)}.json",
        "benchmarks.peers",
        str(folder),
        graph,
        "--row",
        peers.stem(row),
    )
    if "error" in record:
        raise RuntimeError(f"{variant.name}: {record['error']}")
    return folder / "peers" / graph / f"{peers.stem(row)}.onnx"


def runner(variant: Variant, path: Path, threads: int) -> Run:
    """A loaded model as a function of a sample."""
    if variant.engine == "openvino":
        import openvino as ov

        core = ov.Core()
        compiled = core.compile_model(
            core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        )
        return lambda sample: compiled(sample)[0]
    if variant.engine == "onnxptq":
        from onnxptq import session

        opened = session(path, threads=threads)
    else:
        opened = plain_session(path, threads=threads)
    return lambda sample: opened.run(None, sample)[0]


def ratio(folder: Path, name: str, variant: Variant, threads: int, rounds: int) -> dict[str, Any]:
    """FP32 and the variant in turns, in this process."""
    sample = load(folder, name).held_out[0]
    pair = [runner(v, path_of(folder, name, v), threads) for v in (FP32, variant)]
    clock = time.process_time if threads == 1 else time.perf_counter
    warm = [_once(run, sample, 2, time.perf_counter) for run in pair]
    repeats = [max(1, round(LEAST / seconds)) for seconds in warm]
    times = np.empty((rounds, 2))
    for turn in range(rounds):
        for which in ((0, 1), (1, 0))[turn % 2]:
            if warm[which] < SLOW:
                pair[which](sample)
            times[turn, which] = _once(pair[which], sample, repeats[which], clock)
    ratios = times[:, 0] / times[:, 1]
    return {
        "threads": threads,
        "clock": clock.__name__,
        "rounds": rounds,
        "fp32_ms": float(np.median(times[:, 0])) * 1e3,
        "ms": float(np.median(times[:, 1])) * 1e3,
        "ratio": float(np.median(ratios)),
        "quartiles": [float(q) for q in np.percentile(ratios, [25, 75])],
    }


def _once(run: Run, sample: Sample, repeats: int, clock: Callable[[], float]) -> float:
    start = clock()
    for _ in range(repeats):
        run(sample)
    return (clock() - start) / repeats


def memory(folder: Path, name: str, variant: Variant) -> dict[str, Any]:
    """Peak memory of one run in this process, the interpreter included, and the error of the outputs."""
    graph, path = load(folder, name), path_of(folder, name, variant)
    run = runner(variant, path, 1)
    run(graph.held_out[0])
    peak = peak_mib()
    expected = references(graph, folder / "peers" / name / "fp32.npz")
    found = [np.asarray(run(sample)) for sample in graph.held_out]
    return {"peak_mib": peak, "mib": path.stat().st_size / MEBI, "sqnr": sqnr(graph, expected, found)}


def table(records: list[dict[str, Any]], threads: list[int]) -> str:
    """Markdown of one graph."""
    lines = []
    for record in records:
        if "error" in record:
            lines.append([record["name"], f"fails: {record['error']}", *[""] * (len(threads) + 2)])
            continue
        speeds = [f"{record[f'ratio-{n}']['ratio']:.2f}x" if f"ratio-{n}" in record else "" for n in threads]
        error = "" if record["name"] == FP32.name else f"{record['sqnr']:.1f}"
        lines.append([record["name"], error, f"{record['mib']:.1f}", f"{record['peak_mib']:.0f}", *speeds])
    return markdown_table(
        ["", "dB", "MiB", "peak MiB", *(f"speed, {n} thread{'s' if n > 1 else ''}" for n in threads)], lines
    )


def collect(
    folder: Path, name: str, variant: Variant, threads: list[int], rounds: int, again: str | None
) -> dict[str, Any]:
    """All figures of one variant, each made in its own process."""
    record: dict[str, Any] = {"name": variant.name, "engine": variant.engine, "row": variant.row}
    place = folder / "models" / name
    tasks = {"memory": ["--measure", "memory"]}
    if variant != FP32:
        tasks |= {f"ratio-{n}": ["--measure", "ratio", "--threads", str(n), "--rounds", str(rounds)] for n in threads}
    for task, extra in tasks.items():
        path = place / f"{variant.stem}.{task}.json"
        if again is not None and re.search(again, variant.name):
            path.unlink(missing_ok=True)
        found = job(path, MODULE, str(folder), name, "--variant", variant.stem, *extra)
        if "error" in found:
            return {**record, **found}
        record |= found if task == "memory" else {task: found}
    return record


def main() -> None:
    """Print the tables; write FOLDER/models.json and FOLDER/models.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("out/bench"))
    parser.add_argument("graphs", nargs="*", default=["minilm", "sam256", "swin"], help=f"of {', '.join(GRAPHS)}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=11, help="turns of FP32 and a variant")
    parser.add_argument("--recipe", choices=peers.RECIPES, default="auto", help="of our files (default auto)")
    parser.add_argument("--only", default="", metavar="REGEX", help="variants whose name matches")
    parser.add_argument("--again", default=None, metavar="REGEX", help="measure variants anew whose name matches")
    parser.add_argument("--variant", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--measure", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure is not None:
        name, variant = args.graphs[0], next(v for v in (*VARIANTS, *OTHERS) if v.stem == args.variant)
        place = args.folder / "models" / name
        if args.measure == "memory":
            write_record(place / f"{variant.stem}.memory.json", memory(args.folder, name, variant))
        else:
            threads = args.threads[0]
            write_record(
                place / f"{variant.stem}.ratio-{threads}.json", ratio(args.folder, name, variant, threads, args.rounds)
            )
        return
    chosen = [
        v
        for v in (VARIANTS if args.recipe == "auto" else (FP32, *OTHERS))
        if re.search(args.only, v.name)
        and (v == FP32 or args.recipe == "auto" or v.name.startswith(f"onnxptq {args.recipe} "))
        and (v.engine != "openvino" or find_spec("openvino") is not None)
    ]
    found: dict[str, list[dict[str, Any]]] = {}
    print("; ".join(f"{key}: {value}" for key, value in machine().items()))
    for name in args.graphs:
        found[name] = [collect(args.folder, name, variant, args.threads, args.rounds, args.again) for variant in chosen]
        print(f"\n{name}: times as fast as FP32 onnxruntime, median of {args.rounds} turns\n")
        print(table(found[name], args.threads), flush=True)
    write_record(args.folder / "models.json", {"machine": machine(), "graphs": found})
    caption = f"{machine()['cpu']}, {machine()['isa']}, onnxruntime {machine()['onnxruntime']}"
    model_dots(found, args.threads[0], args.folder / "models.png", caption)


if __name__ == "__main__":
    main()
