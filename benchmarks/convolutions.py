"""Models in which convolutions rule, beside onnxruntime: `python -m benchmarks.convolutions FOLDER [names...]`.

The models are small, with random weights; the batch normalizations get random factors and the statistics of the
images. SQNR is the mean over the outputs of the median over held-out images. `onnxruntime dynamic` codes linears
alone (its integer convolution takes no signed weights), `onnxruntime static` what it codes by default.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.convnets import MODELS, build
from benchmarks.graphs import Sample
from benchmarks.measure import plain_session
from benchmarks.peers import dynamic, static
from onnxptq.report.text import markdown_table
from onnxptq.running.metrics import decibels

HELD_OUT = 8


def ratio(expected: Sequence[Sequence[Any]], got: Sequence[Sequence[Any]]) -> float:
    """Mean over outputs of the median over samples of the SQNR, dB."""
    found = [
        [
            decibels(float(np.square(a, dtype=np.float64).sum()), float(np.square(a - b, dtype=np.float64).sum()))
            for a, b in zip(want, have, strict=True)
        ]
        for want, have in zip(expected, got, strict=True)
    ]
    return float(np.mean(np.median(np.array(found), axis=0)))


def _peer(path: Path, out: Path, samples: list[Sample], kind: str) -> None:
    if kind == "static":
        static(path, out, samples, per_channel=True, activation_type="QUInt8", weight_type="QInt8")
    else:
        dynamic(path, out, per_channel=True, op_types_to_quantize=["MatMul"])


def measure(name: str, folder: Path, bits: str, settings: dict[str, str]) -> dict[str, Any]:
    """SQNR of our file and onnxruntime's on the held-out images; and ours by site."""
    from onnxptq import Quantizer, session

    path, samples = build(name, folder)
    calibration, held = samples[:-HELD_OUT], samples[-HELD_OUT:]

    def run(made: Any) -> list[Any]:
        return [made.run(None, sample) for sample in held]

    expected = run(plain_session(path))
    record: dict[str, Any] = {"name": name}
    for kind in ("dynamic", "static"):
        out, figures = folder / f"{name}.{kind}.onnx", folder / f"{name}.{kind}.json"
        if not figures.exists():
            _peer(path, out, calibration, kind)
            figures.write_text(json.dumps(ratio(expected, run(plain_session(out, optimize=False)))))
        record[kind] = json.loads(figures.read_text())
    quantizer = Quantizer(path, bits=bits, settings=settings)
    quantizer.calibrate(calibration)
    result = quantizer.quantize()
    out = folder / f"{name}.{bits}.onnx"
    result.save(out)
    record["ours"] = ratio(expected, run(session(out, threads=1)))
    record["float"] = sum(site.scheme == "float" for site in result.report.sites)
    record["sites"] = [(s.key, str(s.role), s.calibrator, s.bits, s.sqnr) for s in result.report.sites]
    record["selection"] = [vars(verdict) for verdict in result.report.selection]
    record["warnings"] = list(result.report.warnings)
    record["mib"] = (path.stat().st_size / 2**20, out.stat().st_size / 2**20)
    return record


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--bits", default="w8a8")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--sites", action="store_true", help="print the SQNR of every site too")
    args = parser.parse_args()
    rows = []
    for name in args.names or MODELS:
        record = measure(name, args.folder, args.bits, dict(one.split("=", 1) for one in args.set))
        rows.append(
            [
                name,
                *(f"{record[key]:.1f}" for key in ("ours", "dynamic", "static")),
                f"{record['mib'][0] / record['mib'][1]:.2f}x",
            ]
        )
        print(*rows[-1], *record["warnings"], file=sys.stderr, flush=True)
        if args.sites:
            for verdict in record["selection"]:
                print("  ", verdict, file=sys.stderr)
            for key, role, calibrator, width, sqnr in record["sites"]:
                print(
                    f"   {sqnr if sqnr is not None else float('nan'):6.1f} {role:14s} {calibrator:12s} {width} {key}",
                    file=sys.stderr,
                )
    print(
        markdown_table(
            ["", f"`auto`, {args.bits}, dB", "onnxruntime dynamic, dB", "onnxruntime static, dB", "smaller than FP32"],
            rows,
        )
    )


if __name__ == "__main__":
    main()
