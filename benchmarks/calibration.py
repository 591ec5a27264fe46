"""What calibration costs beside bare FP32 inference: `python -m benchmarks.calibration MODEL SAMPLES [--recipe minmax ...]`.

Each measurement is a process of its own. CPU seconds are compared (other load hardly touches them), and peak memory. The
calibration stage is the walks over the samples; weight search, folds and verification are not in it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path


def inference(model: str, samples: str, threads: int) -> dict[str, float]:
    """FP32 onnxruntime over the samples."""
    from onnxptq.calibration.inputs import input_specs
    from onnxptq.calibration.sources import open_source
    from onnxptq.graph.load import load
    from onnxptq.report.data import peak_memory
    from onnxptq.runtime import session

    source = open_source(samples, inputs=input_specs(load(model)))
    running = session(Path(model), executor="function", threads=threads)
    start = time.process_time()
    for sample in source:
        running.run(None, dict(sample))
    return {"cpu_seconds": time.process_time() - start, "peak_mib": (peak_memory() or 0) / 2**20}


def calibration(model: str, samples: str, threads: int, recipe: str, bits: str) -> dict[str, float]:
    """The calibration stage of one recipe."""
    from onnxptq.calibration.engine import Engine
    from onnxptq.quantizer import Quantizer
    from onnxptq.report.data import peak_memory

    spent: dict[str, float] = {}
    walk = Engine.drive

    def timed(self: Engine, *args: object, **options: object) -> object:
        before = time.process_time()
        found = walk(self, *args, **options)  # type: ignore[arg-type]
        spent["cpu_seconds"] = time.process_time() - before
        spent["peak_mib"] = (peak_memory() or 0) / 2**20
        return found

    Engine.drive = timed  # type: ignore[method-assign,assignment]
    q = Quantizer(model, recipe=recipe, bits=bits, threads=threads, settings={"weights.calibrator": "minmax"})
    q.calibrate(samples)
    return spent


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    parser.add_argument("samples")
    parser.add_argument("--recipe", nargs="*", default=["minmax", "omse"])
    parser.add_argument("--bits", default="w6a6")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child == "inference":
        print(json.dumps(inference(args.model, args.samples, args.threads)))
        return
    if args.child:
        print(json.dumps(calibration(args.model, args.samples, args.threads, args.child, args.bits)))
        return
    found = {}
    for name in ("inference", *args.recipe):
        command = [sys.executable, "-m", "benchmarks.calibration", args.model, args.samples, "--bits", args.bits, "--child", name]
        done = subprocess.run([*command, "--threads", str(args.threads)], capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
        base = found["inference"]
        ratios = [found[name][key] / base[key] for key in ("cpu_seconds", "peak_mib")]
        print(
            f"{name:10} {found[name]['cpu_seconds']:8.1f} CPU s {ratios[0]:5.2f}x {found[name]['peak_mib']:8.0f} MiB {ratios[1]:5.2f}x",
            flush=True,
        )


if __name__ == "__main__":
    main()
