"""Models of today beside onnxruntime: `python -m benchmarks.today FOLDER [names...]` prints a table.

The models are small, with random weights (`benchmarks.family`), each from both exporters. SQNR is the median over
held-out samples. A row is one file in FOLDER and is made in a process of its own; a second call makes what is missing.
onnxruntime dynamic and static have their defaults: static codes all it can, by extrema.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from benchmarks.coverage import coverage
from benchmarks.family import MODELS, Model
from benchmarks.graphs import Sample, images
from benchmarks.measure import job, machine, outputs, plain_session
from benchmarks.peers import dynamic, static
from onnxptq import Quantizer, session
from onnxptq.evaluate.records import write_record
from onnxptq.models.export import export
from onnxptq.report.text import markdown_table
from onnxptq.running.metrics import metrics

EXPORTERS = ("torchscript", "dynamo")
OURS = ("w8a8", "w4a8")
PEERS = ("dynamic", "static")
COUNT, HELD_OUT, SIZE = 14, 4, 128


class _Chosen(nn.Module):
    def __init__(self, model: Model, inner: Any) -> None:
        super().__init__()
        self.model, self.inner = model, inner

    def forward(self, *given: Tensor) -> Tensor:
        found: Tensor = getattr(self.inner(**dict(zip(self.model.inputs, given, strict=True))), self.model.output)
        return found


def samples(inputs: tuple[str, ...]) -> list[Sample]:
    """Smooth images and random words; the last ``HELD_OUT`` are for the comparison."""
    rng = np.random.default_rng(3)
    made = []
    for picture in images(COUNT, SIZE, 7):
        words = rng.integers(3, 99, (1, 12))
        held = {"pixel_values": picture["image"], "input_ids": words, "attention_mask": np.ones_like(words)}
        made.append({name: held[name] for name in inputs})
    return made


def _scale(module: nn.Module) -> None:
    """Weights that keep the size of a signal, and position tables other than zero."""
    for key, table in module.named_parameters():
        if "pos" in key and not table.any():
            table.normal_(0, 0.02)
    for one in module.modules():
        if isinstance(one, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            one.weight.normal_(0, one.weight[0].numel() ** -0.5)


def build(name: str, exporter: Any, path: Path) -> list[Sample]:
    """Write the file of a model and return its samples."""
    model, found = MODELS[name], samples(MODELS[name].inputs)
    torch.manual_seed(0)
    module = _Chosen(model, model.build()).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _scale(module)
        example = {key: torch.from_numpy(array) for key, array in found[0].items()}
        export(module, example, ("y",), path, exporter=exporter)
    return found


def _peer(path: Path, out: Path, samples: list[Sample], kind: str) -> None:
    if kind == "static":
        static(path, out, samples)
    else:
        dynamic(path, out, op_types_to_quantize=["MatMul", "Gemm"])


def _why(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:160]


def measure(name: str, exporter: str, folder: Path) -> dict[str, Any]:
    """The row of one model and exporter. What fails is in it by its message."""
    path = folder / f"{name}.{exporter}.onnx"
    record: dict[str, Any] = {"name": name, "exporter": exporter}
    try:
        found = build(name, exporter, path)
        calibration, held = found[:-HELD_OUT], found[-HELD_OUT:]
        expected = outputs(plain_session(path), held)
    except Exception as error:
        return record | {"original": _why(error)}

    def sqnr(made: Any) -> float:
        pairs = zip(expected, outputs(made, held), strict=True)
        return float(np.median([metrics(a, b).sqnr for a, b in pairs]))

    for kind in PEERS:
        out = folder / f"{name}.{exporter}.{kind}.onnx"
        try:
            _peer(path, out, calibration, kind)
            record[kind] = sqnr(plain_session(out))
        except Exception as error:
            record[kind] = _why(error)
    for bits in OURS:
        out, start = folder / f"{name}.{exporter}.{bits}.onnx", time.process_time()
        try:
            quantizer = Quantizer(path, bits=bits, threads=1)
            quantizer.calibrate(calibration)
            result = quantizer.quantize()
            result.save(out)
            record[bits] = sqnr(session(out, threads=1))
        except Exception as error:
            record[bits] = _why(error)
            continue
        counts = coverage(onnx.load(out, load_external_data=False))
        kinds = (counts.linears, counts.products, counts.convs)
        record[f"{bits}.coded"] = [sum(one[0] for one in kinds), sum(one[1] for one in kinds)]
        record[f"{bits}.warnings"] = list(result.report.warnings)
        record[f"{bits}.seconds"] = time.process_time() - start
    return record


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else "-" if value is None else "fails"


def row(record: dict[str, Any]) -> list[str]:
    """The cells of a record."""
    coded = record.get("w8a8.coded")
    seconds = record.get("w8a8.seconds")
    return [
        f"`{record['name']}`",
        record["exporter"],
        *(_cell(record.get(key)) for key in (*OURS, *PEERS)),
        f"{coded[0]} / {coded[1]}" if coded else "-",
        f"{seconds:.0f}" if seconds else "-",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--exporter", choices=EXPORTERS, action="append", help="one exporter alone")
    parser.add_argument("--row", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.row:
        write_record(args.row, measure(args.names[0], args.exporter[0], args.folder))
        return
    records = []
    for exporter in args.exporter or EXPORTERS:
        for name in args.names or MODELS:
            path = args.folder / f"{name}.{exporter}.json"
            own = (str(args.folder), name, "--exporter", exporter, "--row", str(path))
            records.append({"name": name, "exporter": exporter} | job(path, "benchmarks.today", *own))
            print(*row(records[-1]), file=sys.stderr, flush=True)
    print(
        markdown_table(
            ["", "exporter", "w8a8, dB", "w4a8, dB", "dynamic, dB", "static, dB", "coded / all, w8a8", "CPU s, w8a8"],
            [row(record) for record in records],
        )
    )
    print(*(f"{key}: {value}" for key, value in machine().items()), sep=", ")


if __name__ == "__main__":
    main()
