"""Speed: models timed in turns in one process, and the memory each needs on its own."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxptq.errors import InputError
from onnxptq.graph.size import source_size
from onnxptq.report.answer import Speed
from onnxptq.running.runner import Runner, Sample
from onnxptq.running.sessions import Executor, library_path

PEAK = """
import json, sys
import numpy as np
from onnxptq.report.stopwatch import peak_memory
from onnxptq.running.runner import Runner
model, sample, executor, threads = json.loads(sys.argv[1])
with np.load(sample) as held:
    Runner(model, executor=executor, threads=threads)(dict(held))
print(peak_memory())
"""

LARGE, LONG, ROUNDS = 1 << 28, 0.5, 5
"""Bytes of a model and seconds of a run above which ``here`` measures nothing, and its rounds."""


@dataclass(frozen=True)
class Times:
    """One model's times over all rounds."""

    ms: float
    """Median wall time."""
    cpu_ms: float
    """Median CPU time, all threads together."""
    faster: float
    """Median over the rounds of the first model's time in that round over this one's."""
    quartiles: tuple[float, float]
    """Of the same ratio."""


def here(original: str, quantized: str, sample: Sample, *, native: bool) -> Speed | None:
    """A short measurement; None for large models and long runs, which `onnxptq bench` measures."""
    if source_size(original) > LARGE:
        return None
    first = Runner(original, name=original, executor="function", threads=1, error=InputError)
    start = time.perf_counter()
    first(sample)
    if time.perf_counter() - start > LONG:
        return None
    executors: list[Executor] = ["function"]
    if native and library_path() is not None:
        executors.append("native")
    runners = [first, *(Runner(quantized, name=quantized, executor=one, threads=1) for one in executors)]
    for runner in runners:
        runner(sample)
    times = np.empty((ROUNDS, len(runners)))
    for row in times:
        for index, runner in enumerate(runners):
            spent = time.process_time()
            runner(sample)
            row[index] = max(time.process_time() - spent, 1e-9)
    plain, *other = np.median(times[:, :1] / times[:, 1:], axis=0)
    return Speed(float(plain), float(other[0]) if other else None)


def timed(
    models: Sequence[str], sample: Sample, *, runs: int, executor: Executor | None = None, threads: int | None = None
) -> list[Times]:
    """One warm-up each, then ``runs`` rounds in turns, so that changing load slows all models alike."""
    runners = [Runner(model, name=model, executor=executor, threads=threads, error=InputError) for model in models]
    for runner in runners:
        runner(sample)
    times: list[tuple[list[float], list[float]]] = [([], []) for _ in runners]
    for _ in range(runs):
        for runner, (wall, cpu) in zip(runners, times, strict=True):
            start, spent = time.perf_counter(), time.process_time()
            runner(sample)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - spent)
    found = []
    for wall, cpu in times:
        ratios = sorted(first / own for first, own in zip(times[0][0], wall, strict=True))
        quartiles = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        found.append(
            Times(1000 * statistics.median(wall), 1000 * statistics.median(cpu), statistics.median(ratios), quartiles)
        )
    return found


def peak_of(model: str, sample: Sample, *, executor: Executor | None = None, threads: int | None = None) -> int | None:
    """Peak memory in bytes of a process that loads the model and runs it once; None where it is unknown."""
    with tempfile.TemporaryDirectory(prefix="onnxptq-") as folder:
        path = str(Path(folder) / "sample.npz")
        arrays: dict[str, Any] = dict(sample)
        np.savez(path, **arrays)
        command = [sys.executable, "-c", PEAK, json.dumps([model, path, executor, threads])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    last = done.stdout.split()[-1:] if done.returncode == 0 else []
    return int(last[0]) if last and last[0].isdigit() else None
