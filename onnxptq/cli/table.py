"""``onnxptq table``: a grid of recipes and bit widths over the splits of a task, as the papers print it."""

from __future__ import annotations

import tempfile
from argparse import ArgumentParser, Namespace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli import evaluate as evaluation
from onnxptq.cli.output import Output, folder
from onnxptq.cli.values import add_output, positive, seed
from onnxptq.errors import InputError
from onnxptq.lower import FORMATS

if TYPE_CHECKING:
    from onnxptq.evaluate.grid import Cell, Folder

BITS = "w8a8,w6a6,w4a8,w4a4,w3a3"
RECIPES = "rtn,minmax,percentile,omse"
SHOWN = {"sam": ("mIoU", "P@0.75", "P@0.9", "agreement"), "ris": ("MIoU", "OIoU", "P@0.7", "P@0.9", "agreement")}
SHOWN |= {
    "coco": ("AP", "AP50", "AP75", "agreement"),
    "refcoco": SHOWN["ris"],
    "ade20k": ("mIoU", "accuracy", "agreement"),
}
SHOWN |= {"dota": ("mAP", "mAP50", "mAP75", "agreement")}


def add(parser: ArgumentParser) -> None:
    """Options: those of evaluate, and the grid's."""
    evaluation.add(parser)
    grid = parser.add_argument_group("grid")
    grid.add_argument(
        "--recipes",
        metavar="R,..",
        default=RECIPES,
        help=f"recipes by name or TOML file, each with settings like auto+folds=off (default {RECIPES})",
    )
    grid.add_argument("--bits", metavar="wXaY,..", default=BITS, help=f"bit widths (default {BITS})")
    grid.add_argument(
        "--splits", metavar="S[:N],..", help="splits, each with its own limit (default: --split and --limit)"
    )
    grid.add_argument(
        "--calib", metavar="SRC", help="as of quantize (default zoo:sam-mini or zoo:lavt-mini for sam and ris)"
    )
    grid.add_argument("--samples", type=positive, default=32, metavar="N", help="calibration samples (default 32)")
    grid.add_argument("--seed", type=seed, default=0, metavar="N", help="seed of calibration samples (default 0)")
    grid.add_argument(
        "--format", choices=FORMATS, default="native", help="of the files that are judged (default native)"
    )
    add_output(
        grid, "folder for table.md, table.csv, drawings and finished cells", metavar="DIR", type=Path, required=True
    )


def run(args: Namespace, out: Output) -> int:
    """Quantize and evaluate cell by cell; finished cells are kept."""
    from onnxptq.bits import Bits
    from onnxptq.recipe import Recipe, named
    from onnxptq.workers import opened

    if args.quantized or args.pictures:
        raise InputError("table: --quantized and --pictures belong to evaluate")
    recipes, widths, splits = args.recipes.split(","), args.bits.split(","), _splits(args)
    for recipe in recipes:
        Recipe.load(*named(recipe))
    for width in widths:
        Bits.parse(width)
    args.calib = args.calib or {"sam": "zoo:sam-mini", "ris": "zoo:lavt-mini"}.get(args.task)
    if args.calib is None:
        raise InputError(f"table {args.task}: --calib is missing")
    _spec(args)
    evaluation.open_task(Namespace(**{**vars(args), "split": splits[0][0], "limit": splits[0][1]}))
    with folder(args.output), opened(args.workers, args.engine) as args.opened:
        return _run(args, out, recipes, widths, splits)


def _run(
    args: Namespace, out: Output, recipes: list[str], widths: list[str], splits: list[tuple[str, int | None]]
) -> int:
    """The grid, written after each row."""
    from onnxptq.evaluate.grid import FULL, Folder, comma_separated, drawing, markdown

    keys = ("task", "model", "data", "benchmark", "partition", "boxes", "coarse", "calib", "samples", "seed", "format")
    kept = Folder(
        args.output, {key: str(getattr(args, key)) for key in keys} | {"splits": [f"{s}:{n}" for s, n in splits]}
    )
    cells = [_cell(args, kept, FULL, "w32a32", split, []) for split in splits]
    for width in widths:
        for recipe in recipes:
            with tempfile.TemporaryDirectory(prefix="onnxptq-table-") as scratch:
                made: list[Path] = []
                for split in splits:
                    cells.append(_cell(args, kept, recipe, width, split, made, Path(scratch)))
                    shown = ", ".join(
                        f"{n} {cells[-1].figures[n]:.2f}" for n in SHOWN[args.task] if n in cells[-1].figures
                    )
                    out.say(f"{width} {recipe} {split[0]}: {shown}")
            _write(args.output / "table.md", markdown(cells, SHOWN[args.task]))
    text = markdown(cells, SHOWN[args.task])
    _write(args.output / "table.csv", comma_separated(cells))
    for part, _ in splits:
        for name in SHOWN[args.task]:
            _write(args.output / f"{part}-{name.replace('@', '')}.svg", drawing(cells, name, part))
    out.say("\n" + text)
    out.emit({"cells": [{"recipe": c.recipe, "bits": c.bits, "split": c.split, **c.figures} for c in cells]})
    return 0


def _cell(
    args: Namespace,
    folder: Folder,
    recipe: str,
    bits: str,
    split: tuple[str, int | None],
    made: list[Path],
    scratch: Path | None = None,
) -> Cell:
    """One cell, from an earlier run or computed now; ``made`` holds the quantized files once they are needed."""
    from onnxptq.evaluate.grid import Cell
    from onnxptq.evaluate.replay import Remembered, Replay
    from onnxptq.evaluate.task import evaluate_task

    known = folder.get(recipe, bits, split[0])
    if known is not None:
        return known
    here = Namespace(**{**vars(args), "split": split[0], "limit": split[1]})
    task = Replay(evaluation.open_task(here), folder.path / "fp32" / split[0])
    how = Namespace(**{name: getattr(args, name) for name in ("task", "vocab", "executor", "threads")})
    models: dict[str, Any] = {"reference": Remembered(partial(evaluation.open_model, how, _spec(args)))}
    if scratch is not None:
        if not made:
            made += _quantize(args, recipe, bits, scratch)
        models[recipe] = evaluation.open_model(here, ",".join(str(path) for path in made))
    row = evaluate_task(task, models, limit=split[1], workers=args.opened).rows[-1]
    figures = dict(row.figures) if row.agreement is None else {**row.figures, "agreement": row.agreement}
    cell = Cell(recipe, bits, split[0], figures)
    folder.put(cell)
    return cell


def _quantize(args: Namespace, recipe: str, bits: str, scratch: Path) -> list[Path]:
    """The model's files at one width by one recipe."""
    from onnxptq.evaluate.models import lavt_file, sam_files
    from onnxptq.quantizer import Quantizer
    from onnxptq.recipe import named

    sources = [lavt_file(_spec(args))] if args.task in ("ris", "refcoco") else list(sam_files(_spec(args)))
    written = []
    for part, source in enumerate(sources):
        name, settings = named(recipe)
        how: dict[str, Any] = {
            "format": args.format,
            "seed": args.seed,
            "threads": args.threads,
            "workers": args.opened,
        }
        q = Quantizer(source, recipe=name, settings=settings, bits=bits, **how)
        q.calibrate(args.calib, limit=args.samples, preprocess="imagenet" if len(sources) == 1 else "sam")
        written.append(scratch / f"{part}.onnx")
        q.quantize().save(written[-1])
    return written


def _spec(args: Namespace) -> str:
    spec = args.model or evaluation.DEFAULT_MODEL.get(args.task)
    if spec is None:
        raise InputError(f"table {args.task}: --model is missing")
    return str(spec)


def _splits(args: Namespace) -> list[tuple[str, int | None]]:
    """Splits with their limits."""
    if args.splits is None:
        return [(args.split or evaluation.DEFAULT_SPLIT.get(args.task, "val"), args.limit)]
    found: list[tuple[str, int | None]] = []
    for word in args.splits.split(","):
        name, _, number = word.partition(":")
        if number and not (number.isdigit() and int(number)):
            raise InputError(f"--splits {word}: write SPLIT or SPLIT:N")
        found.append((name, int(number) if number else args.limit))
    return found


def _write(path: Path, text: str) -> None:
    from onnxptq.graph.save import write_atomic

    write_atomic(path, text.encode())
