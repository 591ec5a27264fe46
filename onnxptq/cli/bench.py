"""``onnxptq bench``: size, speed and memory of models, interleaved in one run."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_run, add_samples, positive
from onnxptq.errors import InputError

if TYPE_CHECKING:
    from onnxptq.verify import Sample

PEAK = """
import json, sys
import numpy as np
from onnxptq.errors import InputError
from onnxptq.report.data import peak_memory
from onnxptq.verify import Runner
model, sample, executor, threads = json.loads(sys.argv[1])
with np.load(sample) as held:
    Runner(model, name=model, executor=executor, threads=threads, error=InputError)(dict(held))
print(peak_memory())
"""


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="models with the same inputs; the first is the measure of the others")
    parser.add_argument("--runs", type=positive, default=15, metavar="N", help="timed runs of each model, taking turns (default 15)")
    add_samples(parser, "--data")
    add_run(parser)


def run(args: Namespace, out: Output) -> int:
    """A table: bytes, median milliseconds, CPU milliseconds, how many times faster than the first, peak memory."""
    from onnxptq.cli.samples import found_in, open_for
    from onnxptq.graph.size import source_size
    from onnxptq.report.text import megabytes, table

    args.samples = args.samples or 1
    executor = args.executor or _executor(args.models)
    sample = next(iter(open_for(*found_in(args.models[0], args), args.data, args)))
    times = _times(args, sample, executor)
    rows, entries = [], []
    for number, (model, (wall, cpu)) in enumerate(zip(args.models, times, strict=True)):
        ratios = sorted(first / own for first, own in zip(times[0][0], wall, strict=True))
        ratio = (statistics.median(ratios), ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4])
        size, peak = source_size(model), _peak(model, sample, executor, args.threads)
        entries.append(
            {
                "model": model,
                "bytes": size,
                "ms": 1000 * statistics.median(wall),
                "cpu_ms": 1000 * statistics.median(cpu),
                "faster": ratio[0],
                "faster_quartiles": ratio[1:],
                "peak_bytes": peak,
            }
        )
        faster = f"{ratio[0]:.2f} ({ratio[1]:.2f} to {ratio[2]:.2f})" if number else "1"
        times_text = [f"{1000 * statistics.median(t):.1f}" for t in (wall, cpu)]
        rows.append([model, megabytes(size), *times_text, faster, megabytes(peak) if peak else "-"])
    out.say(table(["model", "size", "ms", "CPU ms", "times faster", "peak memory"], rows, right=range(1, 6)))
    out.say(f"\nmedians of {args.runs} runs of each, taking turns; in brackets the quartiles; executor {executor}")
    out.emit({"runs": args.runs, "executor": executor, "threads": args.threads, "models": entries})
    return 0


def _executor(models: list[str]) -> str:
    """The native library, or function bodies where no model needs it; figures of function bodies are never taken for ours."""
    from onnxptq.graph.load import load
    from onnxptq.ops import DOMAIN
    from onnxptq.runtime import library_path

    loaded = {model: load(model) for model in models}
    if library_path() is not None:
        return "native"
    for model, held in loaded.items():
        if any(domain == DOMAIN for domain, _, _ in held.functions):
            raise InputError(f"{model}: no native library here, so its speed cannot be measured; build it, or say --executor function")
    return "function"


def _times(args: Namespace, sample: Sample, executor: str) -> list[tuple[list[float], list[float]]]:
    """Wall and CPU seconds of each run of each model, the models taking turns."""
    from onnxptq.verify import Runner

    runners = [Runner(m, name=m, executor=executor, threads=args.threads, error=InputError) for m in args.models]  # type: ignore[arg-type]
    for runner in runners:
        runner(sample)
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in runners]
    for _ in range(args.runs):
        for runner, (wall, cpu) in zip(runners, times, strict=True):
            start, spent = time.perf_counter(), time.process_time()
            runner(sample)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - spent)
    return times


def _peak(model: str, sample: Sample, executor: str, threads: int | None) -> int | None:
    """Peak memory of a process that loads the model and runs it once."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="onnxptq-") as folder:
        path = str(Path(folder) / "sample.npz")
        arrays: dict[str, Any] = dict(sample)
        np.savez(path, **arrays)
        command = [sys.executable, "-c", PEAK, json.dumps([model, path, executor, threads])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else []
    return int(last[0]) if last and last[0].isdigit() else None
