"""The papers' methods on the embedded LAVT: `python -m benchmarks.ptq4ris FOLDER [--tables ...] [--doc FILE]`.

Each cell is one quantized model on one split of one benchmark, kept in FOLDER, so an interrupted run continues; `--doc`
writes the tables between the marks of a file after each cell, `--print` only prints finished cells as Markdown.
Calibration: 32 (image, sentence) pairs of the train split, the three benchmarks in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxptq.datasets import scenes, zoo
from onnxptq.evaluate.overlap import Agreement, RefScore
from onnxptq.evaluate.predictors import LavtPredictor
from onnxptq.evaluate.records import read_record, write_record
from onnxptq.graph.save import write_atomic
from onnxptq.lower import native
from onnxptq.quantizer import Quantizer
from onnxptq.report.text import markdown_table

BITS = ("w8a8", "w6a6", "w4a8", "w4a4")
SPLITS = {"val": 500, "testA": 200, "testB": 200}
IMAGES = 32
MARKS = ("<!-- table -->", "<!-- /table -->")
FULL, WHOLE = "FP32", "w32a32"
Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """A recipe with settings."""

    recipe: str
    settings: dict[str, str] = field(default_factory=dict)


def _parts(visual: bool, text: bool, rest: bool) -> Row:
    searched = {"visual": visual, "text": text, "rest": rest}
    return Row("ptq4ris", {name: "rtn" for name, kept in searched.items() if not kept})


def _text(**settings: str) -> Row:
    return Row("ptq4ris", {"visual": "float", "rest": "float", **settings})


METHODS = {name: Row(name) for name in ("rtn", "ptq4vit", "repq-vit", "ptq4ris", "auto")}
PARTS = {
    "extrema everywhere": _parts(False, False, False),
    "fusion and decoder searched": _parts(False, False, True),
    "DRQ": _parts(True, False, False),
    "RORQ": _parts(False, True, False),
    "DRQ and RORQ": _parts(True, True, False),
    "all (ptq4ris)": Row("ptq4ris"),
}
OUTLIERS = {
    "extrema (rtn)": _text(text="rtn"),
    "mean": _text(outliers="mean"),
    "median + 3 MAD": _text(outliers="median+mad"),
    "99 % confidence": _text(outliers="confidence"),
    "mean + 3 SD": _text(),
    "mean + 3 SD, extrema of the groups": _text(ranges="minmax"),
}
OPTIONS = {
    "ptq4ris": Row("ptq4ris"),
    "errors not weighted": Row("ptq4ris", {"metric": "mse"}),
    "bare split": Row("ptq4ris", {"regions": "bare"}),
    "split searched by the published sum": Row("ptq4ris", {"regions": "sum"}),
    "GELU's scales a power of two apart": Row("ptq4ris", {"aligned": "on"}),
    "one scale a weight in the image encoder": Row("ptq4ris", {"weight_scales": "released"}),
    "decoder's inputs by channel": Row("ptq4ris", {"decoder": "channel"}),
    "decoder's inputs in float": Row("ptq4ris", {"decoder": "float"}),
}
TABLES = {"methods": METHODS, "parts": PARTS, "outliers": OUTLIERS, "options": OPTIONS}
FIRST = [(scenes.BENCHMARKS[0], "val")]
EVERYWHERE = [(benchmark, split) for benchmark in scenes.BENCHMARKS for split in SPLITS]


class Bench:
    """The folder, and the data shared by all cells."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._calibration: list[dict[str, Array]] = []

    def model(self, row: Row, bits: str) -> Path:
        """The quantized model, written where it is missing."""
        path = self.folder / f"{stem(row)}-{bits}.onnx"
        if not path.exists():
            self._calibration = self._calibration or list(zoo.lavt_calibration(IMAGES))
            start = time.process_time()
            quantizer = Quantizer(zoo.path("lavt-mini"), recipe=row.recipe, bits=bits, settings=row.settings, threads=1)
            plan = quantizer.calibrate(self._calibration)
            proto = native.lower(quantizer.model, quantizer.structure, plan).proto
            write_record(path.with_suffix(".cost"), {"seconds": time.process_time() - start})
            onnx.save_model(proto, path.with_suffix(".partial"))
            path.with_suffix(".partial").replace(path)
        return path

    def masks(self, path: Path, benchmark: str, split: str) -> Iterator[tuple[Array, Array]]:
        """Predicted and true masks."""
        predictor = LavtPredictor(path, zoo.tokenizer(), threads=1)
        for sample in zoo.ref_samples(benchmark, split, SPLITS[split]):
            yield predictor.mask_of_planes(sample.image, sample.text), sample.mask

    def reference(self, benchmark: str, split: str) -> Array:
        """FP32's masks, kept."""
        kept = self.folder / f"fp32-{benchmark}-{split}.npy"
        if not kept.exists():
            masks = np.stack([found for found, _ in self.masks(zoo.path("lavt-mini"), benchmark, split)])
            np.save(kept.with_suffix(".partial.npy"), masks)
            kept.with_suffix(".partial.npy").replace(kept)
        found: Array = np.load(kept)
        return found

    def measure(self, row: Row | None, bits: str, benchmark: str, split: str) -> dict[str, float]:
        """A cell's figures; None: FP32."""
        path = record(self.folder, row, bits, benchmark, split)
        if not path.exists():
            expected = self.reference(benchmark, split)
            score, agreement = RefScore(), Agreement()
            model = zoo.path("lavt-mini") if row is None else self.model(row, bits)
            for known, (found, true) in zip(expected, self.masks(model, benchmark, split), strict=True):
                score.add(found[None], true[None])
                agreement.add(known[None], found[None])
            write_record(path, score.summary() | {"agreement": agreement.percent})
        return read_record(path)


def stem(row: Row | None) -> str:
    """A row's file name."""
    return (
        "fp32"
        if row is None
        else "-".join([row.recipe, *(f"{key}.{value}" for key, value in sorted(row.settings.items()))])
    )


def record(folder: Path, row: Row | None, bits: str, benchmark: str, split: str) -> Path:
    """File of a cell's figures."""
    return folder / f"{stem(row)}-{bits}-{benchmark}-{split}.json"


def cells(bits: Sequence[str], tables: Sequence[str]) -> Iterator[tuple[Row | None, str, str, str]]:
    """The cells to measure, the most informative first."""
    if "methods" in tables:
        yield None, WHOLE, *FIRST[0]
        yield from ((row, width, *FIRST[0]) for width in bits for row in METHODS.values())
    for name in tables:
        if name != "methods":
            yield from (
                (row, width, *FIRST[0]) for width in bits if width in ("w4a4", "w4a8") for row in TABLES[name].values()
            )
    if "methods" in tables:
        for place in EVERYWHERE:
            yield None, WHOLE, *place
            yield from ((row, width, *place) for width in bits for row in METHODS.values())


def text(folder: Path, bits: Sequence[str]) -> str:
    """Every table, with the finished cells."""
    parts = [_overlaps(folder, bits, benchmark) for benchmark in scenes.BENCHMARKS] + [_precisions(folder, bits)]
    titles = {
        "parts": "What each part brings",
        "outliers": "Rules of the outliers' thresholds, the text encoder alone quantized",
        "options": "Options",
    }
    parts += [_ablation(folder, bits, title, TABLES[name]) for name, title in titles.items()]
    return "\n\n".join(part for part in parts if part)


def _rows(bits: Sequence[str]) -> Iterator[tuple[str, str, Row | None]]:
    yield WHOLE, FULL, None
    yield from ((width, name, row) for width in bits for name, row in METHODS.items())


def _overlaps(folder: Path, bits: Sequence[str], benchmark: str) -> str:
    lines = []
    for width, name, row in _rows(bits):
        found = [read_record(record(folder, row, width, benchmark, split)) for split in SPLITS]
        if any(found):
            shown = [f"{f['MIoU']:.2f} / {f['OIoU']:.2f} · {f['agreement']:.1f}" if f else "-" for f in found]
            lines.append(["" if row is None else width, name, *shown])
    head = ["", "", *(f"{split} ({count})" for split, count in SPLITS.items())]
    return f"{benchmark}: MIoU / OIoU · mean IoU with FP32's masks\n\n" + markdown_table(head, lines) if lines else ""


def _precisions(folder: Path, bits: Sequence[str]) -> str:
    lines = []
    for width, name, row in _rows(bits):
        f = read_record(record(folder, row, width, *FIRST[0]))
        if f:
            lines.append(["" if row is None else width, name, *(f"{f[f'P@{t}']:.1f}" for t in (0.5, 0.7, 0.9))])
    return (
        f"{FIRST[0][0]} {FIRST[0][1]}, share of masks by IoU\n\n"
        + markdown_table(["", "", "P@0.5", "P@0.7", "P@0.9"], lines)
        if lines
        else ""
    )


def _ablation(folder: Path, bits: Sequence[str], title: str, rows: dict[str, Row]) -> str:
    widths = [width for width in bits if width in ("w4a8", "w4a4")]
    lines = []
    for name, row in rows.items():
        found = [read_record(record(folder, row, width, *FIRST[0])) for width in widths]
        if any(found):
            lines.append(
                [name, *(f"{f['MIoU']:.2f} / {f['OIoU']:.2f} · {f['agreement']:.1f}" if f else "-" for f in found)]
            )
    return f"{title}, {FIRST[0][0]} {FIRST[0][1]}\n\n" + markdown_table(["", *widths], lines) if lines else ""


def write(doc: Path, tables: str, marks: tuple[str, str] = MARKS) -> None:
    """Put the tables between the marks of a file."""
    before, _, rest = doc.read_text().partition(marks[0])
    write_atomic(doc, f"{before}{marks[0]}\n{tables}\n{marks[1]}{rest.partition(marks[1])[2]}".encode())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", nargs="+", default=BITS)
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--rows", nargs="+", metavar="NAME", help="only these rows of the tables")
    parser.add_argument("--first", action="store_true", help=f"only {FIRST[0][0]} {FIRST[0][1]}")
    parser.add_argument("--doc", type=Path)
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    if not args.print:
        bench = Bench(args.folder)
        chosen = [
            row for name in args.tables for key, row in TABLES[name].items() if args.rows is None or key in args.rows
        ]
        for row, bits, benchmark, split in cells(args.bits, args.tables):
            wanted = (row is None or row in chosen) and ((benchmark, split) in FIRST or not args.first)
            if wanted and not record(args.folder, row, bits, benchmark, split).exists():
                found = bench.measure(row, bits, benchmark, split)
                print(stem(row), bits, benchmark, split, {k: round(v, 2) for k, v in found.items()}, flush=True)
    if args.doc is not None:
        write(args.doc, text(args.folder, args.bits))
    print(text(args.folder, args.bits))


if __name__ == "__main__":
    main()
