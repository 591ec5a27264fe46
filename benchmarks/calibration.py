"""Cost of quantization against FP32 inference.

`python -m benchmarks.calibration MODEL SAMPLES [--recipe auto ...] [--bits w6a6]` measures every stage of a recipe:
seconds, CPU seconds (other load hardly changes them) and peak memory, each also as a multiple of FP32 inference over
the same samples. That inference runs in a process of its own, in onnxruntime without memory patterns (with them its
second run takes twice the memory). Memory is the peak within the stage where the system reports it, else up to its end.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.measure import MEBI
from onnxptq.calibration.sources.inputs import input_specs
from onnxptq.calibration.sources.opening import open_source
from onnxptq.cli.values import size
from onnxptq.graph.load import load
from onnxptq.quantizer import Quantizer
from onnxptq.report.stopwatch import Stopwatch, peak_memory
from onnxptq.report.text import markdown_table
from onnxptq.running.sessions import session

INFERENCE = "FP32 inference"


@dataclass(frozen=True)
class Cost:
    """Cost of one stage."""

    stage: str
    seconds: float
    cpu_seconds: float
    peak_mib: float


class Meter(Stopwatch):
    """A stopwatch with CPU seconds and each stage's own peak; ``done`` receives the costs of each finished stage."""

    def __init__(self, done: Callable[[Cost], None]) -> None:
        super().__init__()
        self._done = done

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block."""
        _forget_peak()
        start, cpu = time.perf_counter(), time.process_time()
        with super().stage(name):
            yield
        self._done(Cost(name, time.perf_counter() - start, time.process_time() - cpu, (peak_memory() or 0) / MEBI))


def _forget_peak() -> None:
    """Reset the peak to the present memory: Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def inference(model: str, samples: str, threads: int, done: Callable[[Cost], None]) -> None:
    """FP32 onnxruntime over the samples."""
    source = open_source(samples, inputs=input_specs(load(model)))
    gc.collect()  # the graph loaded for its inputs
    with Meter(done).stage(INFERENCE):
        running = session(Path(model), threads=threads)
        for sample in source:
            running.run(None, dict(sample))


def quantization(
    model: str,
    samples: str,
    threads: int,
    done: Callable[[Cost], None],
    *,
    recipe: str,
    bits: str,
    memory_limit: int | None,
) -> None:
    """All stages of one recipe, to a native file in memory."""
    q = Quantizer(model, recipe=recipe, bits=bits, threads=threads)
    q.watch = Meter(done)
    q.calibrate(samples, memory_limit=memory_limit)
    q.quantize()


def costs(args: argparse.Namespace, what: str) -> list[Cost]:
    """The stages of ``what``, inference or a recipe, in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.calibration",
        args.model,
        args.samples,
        "--bits",
        args.bits,
        "--child",
        what,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    command += ["--memory-limit", str(args.memory_limit)] if args.memory_limit else []
    done = subprocess.run(
        [*command, "--threads", str(args.threads)], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return [Cost(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def table(found: list[Cost], base: Cost) -> str:
    """The stages and the whole."""
    whole = Cost(
        "all",
        sum(one.seconds for one in found),
        sum(one.cpu_seconds for one in found),
        max(one.peak_mib for one in found),
    )
    rows = [
        [
            one.stage,
            f"{one.seconds:.1f}",
            f"{one.cpu_seconds:.1f} ({one.cpu_seconds / base.cpu_seconds:.2f}x)",
            f"{one.peak_mib:.0f} MiB ({one.peak_mib / base.peak_mib:.2f}x)",
        ]
        for one in (base, *found, whole)
    ]
    return markdown_table(["stage", "seconds", "CPU seconds", "peak memory"], rows)


def main() -> None:
    """Print a table for each recipe."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    parser.add_argument("samples")
    parser.add_argument("--recipe", nargs="*", default=["auto"])
    parser.add_argument("--bits", default="w6a6")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-limit", type=size, metavar="512MB", help="as in `onnxptq quantize`")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        common = args.model, args.samples, args.threads, lambda cost: print(json.dumps(asdict(cost)), flush=True)
        if args.child == INFERENCE:
            inference(*common)
        else:
            quantization(*common, recipe=args.child, bits=args.bits, memory_limit=args.memory_limit)
        return
    (base,) = costs(args, INFERENCE)
    for recipe in args.recipe:
        print(f"{recipe}, {args.bits}, {args.threads} threads\n\n{table(costs(args, recipe), base)}\n", flush=True)


if __name__ == "__main__":
    main()
