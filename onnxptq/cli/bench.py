"""``onnxptq bench``: size, speed and memory of models, interleaved in one run."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_run, add_samples, positive
from onnxptq.errors import InputError


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="models with the same inputs; the first is the measure of the others"
    )
    parser.add_argument(
        "--runs", type=positive, default=15, metavar="N", help="timed runs of each model, taking turns (default 15)"
    )
    add_samples(parser, "--data")
    add_run(parser)


def run(args: Namespace, out: Output) -> int:
    """A table: bytes, median milliseconds, CPU milliseconds, how many times faster than the first, peak memory."""
    from onnxptq.cli.samples import found_in, open_for
    from onnxptq.graph.size import source_size
    from onnxptq.report.speed import peak_of, timed
    from onnxptq.report.text import megabytes, table

    args.samples = args.samples or 1
    executor = args.executor or _executor(args.models)
    sample = next(iter(open_for(*found_in(args.models[0], args), args.data, args)))
    how = {"executor": executor, "threads": args.threads}
    rows: list[list[str]] = []
    entries = []
    for model, speed in zip(args.models, timed(args.models, sample, runs=args.runs, **how), strict=True):
        size, peak = source_size(model), peak_of(model, sample, **how)
        entries.append({"model": model, "bytes": size, **speed.__dict__, "peak_bytes": peak})
        faster = f"{speed.faster:.2f} ({speed.quartiles[0]:.2f} to {speed.quartiles[1]:.2f})" if rows else "1"
        rows.append(
            [model, megabytes(size), f"{speed.ms:.1f}", f"{speed.cpu_ms:.1f}", faster, megabytes(peak) if peak else "-"]
        )
    out.say(table(["model", "size", "ms", "CPU ms", "times faster", "peak memory"], rows, right=range(1, 6)))
    out.say(f"\nmedians of {args.runs} runs of each, taking turns; in brackets the quartiles; executor {executor}")
    out.emit({"runs": args.runs, "executor": executor, "threads": args.threads, "models": entries})
    return 0


def _executor(models: list[str]) -> str:
    """The native library, or function bodies where no model needs it; else an error: its timings would mislead."""
    from onnxptq.graph.load import load
    from onnxptq.ops import DOMAIN
    from onnxptq.running.sessions import library_path

    loaded = {model: load(model) for model in models}
    if library_path() is not None:
        return "native"
    for model, held in loaded.items():
        if any(domain == DOMAIN for domain, _, _ in held.functions):
            raise InputError(
                f"{model}: no native library here, so its speed cannot be measured; build it, or say --executor "
                f"function"
            )
    return "function"
