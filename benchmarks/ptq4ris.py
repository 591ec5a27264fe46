"""The papers' methods on the embedded LAVT: `python -m benchmarks.ptq4ris FOLDER [--tables ...] [--doc FILE]`.

Each cell is one quantized model on one split of one benchmark, kept in FOLDER, so an interrupted run continues; `--doc`
writes the tables between the marks of a file after each cell, `--print` only prints finished cells as Markdown.
Calibration: 32 (image, sentence) pairs of the train split, the three benchmarks in turn; selection and report have more
of their own.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.ptq4ris_rows import METHODS, NAMES, TABLES, Row
from onnxptq.calibration.sources.split import extra
from onnxptq.datasets import scenes, zoo
from onnxptq.evaluate.overlap import Agreement, RefScore
from onnxptq.evaluate.predictors import LavtPredictor
from onnxptq.evaluate.records import read_record, write_record
from onnxptq.graph.save import write_atomic
from onnxptq.lower import native
from onnxptq.quantizer import Quantizer
from onnxptq.report.text import markdown_table

BITS = ("w8a8", "w6a6", "w4a8", "w4a4")
SPLITS = {"val": 500}
SEEDS = (0, 1, 2)
NARROW = "w4a4"
"""The width of ablations and seeds."""
IMAGES = 32
MARKS = ("<!-- table -->", "<!-- /table -->")
FULL, WHOLE = "FP32", "w32a32"
Array = NDArray[Any]
FIRST = (scenes.BENCHMARKS[0], "val")


class Bench:
    """The folder, and the data shared by all cells."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        folder.mkdir(parents=True, exist_ok=True)
        self._calibration: list[dict[str, Array]] = []

    def model(self, row: Row, bits: str) -> Path:
        """The quantized model, written where it is missing."""
        path = self.folder / f"{stem(row, self.seed)}-{bits}.onnx"
        if not path.exists():
            more = extra(IMAGES, selecting=True)
            self._calibration = self._calibration or list(zoo.lavt_calibration(IMAGES + more, seed=self.seed))
            start = time.process_time()
            how = {"recipe": row.recipe, "bits": bits, "settings": row.at(bits), "include": row.include}
            quantizer = Quantizer(zoo.path("lavt-mini"), **how, threads=1)  # type: ignore[arg-type]
            plan = quantizer.calibrate(self._calibration, limit=IMAGES)
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
        path = record(self.folder, row, bits, benchmark, split, self.seed)
        if not path.exists():
            expected = self.reference(benchmark, split)
            score, agreement = RefScore(), Agreement()
            model = zoo.path("lavt-mini") if row is None else self.model(row, bits)
            for known, (found, true) in zip(expected, self.masks(model, benchmark, split), strict=True):
                score.add(found[None], true[None])
                agreement.add(known[None], found[None])
            write_record(path, score.summary() | {"agreement": agreement.percent})
        return read_record(path)


def stem(row: Row | None, seed: int = 0) -> str:
    """A row's file name."""
    if row is None:
        return "fp32"
    words = [
        row.recipe,
        *(f"{key}.{value}" for key, value in sorted(row.settings.items())),
        *["included"][: len(row.include)],
    ]
    return "-".join([*words, *([f"seed{seed}"] if seed else [])])


def record(folder: Path, row: Row | None, bits: str, benchmark: str, split: str, seed: int = 0) -> Path:
    """File of a cell's figures."""
    return folder / f"{stem(row, seed)}-{bits}-{benchmark}-{split}.json"


def cells(bits: Sequence[str], tables: Sequence[str]) -> Iterator[tuple[Row | None, str, str, str, int]]:
    """The cells to measure, with the seed of their samples, the most informative first."""
    benchmark, split = FIRST
    yield None, WHOLE, benchmark, split, 0
    for name in tables:
        for width in bits:
            if name == "methods" or width == NARROW:
                yield from (
                    (row, width, benchmark, split, 0) for row in TABLES[name].values() if width != "w8a8" or wide(row)
                )
    if "methods" in tables and NARROW in bits:
        yield from ((row, NARROW, benchmark, split, seed) for seed in SEEDS[1:] for row in METHODS.values())


def wide(row: Row) -> bool:
    """Whether a method has its convolutions as wide as the rest: at 8 bits both are the same."""
    return row.settings.get("conv_input.bits") != "8"


def text(folder: Path, bits: Sequence[str]) -> str:
    """Every table, with the finished cells."""
    titles = {
        "parts": "What each part brings",
        "outliers": "Rules of the outliers' thresholds, the text encoder alone quantized",
        "options": "Options",
    }
    parts = [_methods(folder, bits), _seeds(folder)]
    parts += [_ablation(folder, title, TABLES[name]) for name, title in titles.items()]
    return "\n\n".join(part for part in parts if part)


def _methods(folder: Path, bits: Sequence[str]) -> str:
    """Both widths of the convolutions' inputs side by side."""
    whole = read_record(record(folder, None, WHOLE, *FIRST))
    lines = [["", FULL, _shown(whole), ""]] if whole else []
    for width in bits:
        for name in NAMES:
            found = [
                read_record(record(folder, METHODS[key], width, *FIRST)) for key in (name, f"{name}, convolutions 8")
            ]
            if any(found):
                lines.append([width, name, *map(_shown, found)])
    head = ["", "", "inputs of convolutions as wide as the others", "in 8 bits"]
    title = f"{FIRST[0]} {FIRST[1]} ({SPLITS[FIRST[1]]}): MIoU / OIoU · mean IoU with FP32's masks · P@0.5 / 0.7 / 0.9"
    return f"{title}\n\n" + markdown_table(head, lines)


def _seeds(folder: Path) -> str:
    """Agreement and MIoU of each seed at the narrowest width."""
    lines = []
    for name in NAMES:
        cells = []
        for key in (name, f"{name}, convolutions 8"):
            held = [f for s in SEEDS if (f := read_record(record(folder, METHODS[key], NARROW, *FIRST, s)))]
            mious, agreements = (" / ".join(f"{f[k]:.1f}" for f in held) for k in ("MIoU", "agreement"))
            cells.append(f"{mious} · {agreements}" if len(held) > 1 else "-")
        lines.append([name, *cells])
    if all(cell == "-" for line in lines for cell in line[1:]):
        return ""
    head = ["", "inputs of convolutions as wide as the others", "in 8 bits"]
    return (
        f"{NARROW}, calibration samples of seeds {', '.join(map(str, SEEDS))}: MIoU · agreement\n\n"
        + markdown_table(head, lines)
    )


def _shown(f: dict[str, float]) -> str:
    if not f:
        return "-"
    precisions = " / ".join(f"{f[f'P@{t}']:.1f}" for t in (0.5, 0.7, 0.9))
    return f"{f['MIoU']:.2f} / {f['OIoU']:.2f} · {f['agreement']:.1f} · {precisions}"


def _ablation(folder: Path, title: str, rows: dict[str, Row]) -> str:
    lines = [[name, _shown(f)] for name, row in rows.items() if (f := read_record(record(folder, row, NARROW, *FIRST)))]
    return f"{title}, {FIRST[0]} {FIRST[1]}\n\n" + markdown_table(["", NARROW], lines) if lines else ""


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
    parser.add_argument("--doc", type=Path)
    parser.add_argument("--print", action="store_true")
    args = parser.parse_args()
    if not args.print:
        chosen = [
            row for name in args.tables for key, row in TABLES[name].items() if args.rows is None or key in args.rows
        ]
        benches = {seed: Bench(args.folder, seed) for seed in SEEDS}
        for row, bits, benchmark, split, seed in cells(args.bits, args.tables):
            wanted = row is None or row in chosen
            if wanted and not record(args.folder, row, bits, benchmark, split, seed).exists():
                found = benches[seed].measure(row, bits, benchmark, split)
                print(stem(row, seed), bits, benchmark, split, {k: round(v, 2) for k, v in found.items()}, flush=True)
    if args.doc is not None:
        write(args.doc, text(args.folder, args.bits))
    print(text(args.folder, args.bits))


if __name__ == "__main__":
    main()
