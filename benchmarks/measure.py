"""Shared by the comparisons: models with input files, SQNR on held-out inputs, jobs in processes of their own."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.graphs import Graph, Sample
from onnxptq.evaluate.records import read_record
from onnxptq.running.metrics import metrics

MEBI = 2**20


def load(folder: Path, name: str) -> Graph:
    """One of the graphs of ``benchmarks.graphs`` from its files, written first where they are missing."""
    done = folder / f"{name}-held"
    if not done.is_dir() or not (folder / f"{name}.onnx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "benchmarks.graphs", str(folder), name], check=True)
    calibration, held_out = (_samples(folder / f"{name}-{kind}") for kind in ("calib", "held"))
    return Graph(
        folder / f"{name}.onnx", calibration, held_out, next((key for key in held_out[0] if key.endswith("mask")), None)
    )


def _samples(folder: Path) -> list[Sample]:
    found = []
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as held:
            found.append({key: held[key] for key in held.files})
    return found


def plain_session(path: Path, *, threads: int = 1, optimize: bool = True) -> ort.InferenceSession:
    """A session of onnxruntime with its defaults."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(session: ort.InferenceSession, samples: Iterable[Sample]) -> list[NDArray[Any]]:
    """The first output of each sample."""
    return [np.asarray(session.run(None, sample)[0]) for sample in samples]


def counted(graph: Graph, found: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The elements that count: for a text model the tokens other than padding."""
    if graph.mask is None:
        return list(found)
    return [one[sample[graph.mask].astype(bool)] for one, sample in zip(found, graph.held_out, strict=True)]


def sqnr(graph: Graph, expected: Sequence[NDArray[Any]], got: Sequence[NDArray[Any]]) -> float:
    """Median over the held-out inputs of the SQNR over the elements that count, dB."""
    pairs = zip(counted(graph, expected), counted(graph, got), strict=True)
    return float(np.median([metrics(a, b).sqnr for a, b in pairs]))


def references(graph: Graph, cache: Path) -> list[NDArray[Any]]:
    """Outputs of the FP32 model on the held-out inputs, kept in a file."""
    if not cache.exists():
        arrays = outputs(plain_session(graph.path), graph.held_out)
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(".partial.npz")
        np.savez(partial, *arrays)
        partial.replace(cache)
    with np.load(cache) as held:
        return [held[key] for key in held.files]


def peak_mib() -> float:
    """Peak memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MEBI if sys.platform == "darwin" else 1024)


def job(path: Path, module: str, *args: str) -> dict[str, Any]:
    """The record that ``python -m module args`` writes to ``path``: an existing one, or one made in a new process."""
    if not path.exists():
        done = subprocess.run([sys.executable, "-m", module, *args], capture_output=True, text=True, check=False)
        if done.returncode or not path.exists():
            last = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
            print(f"{' '.join(args)}: {last}", file=sys.stderr)
            return {"error": last[:200]}
    return read_record(path)


def machine() -> dict[str, str]:
    """The CPU, the instruction set of our library, and versions, to print with every figure."""
    from onnxptq import __version__
    from onnxptq.ops import library

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": str(os.cpu_count()),
        "isa": library.isa() or "no library: function bodies",
        "onnxruntime": ort.__version__,
        "onnxptq": __version__,
    }
