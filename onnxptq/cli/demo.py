"""``onnxptq demo``: the whole pipeline on an embedded model, with its masks compared."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.lists import Listing, recipes
from onnxptq.cli.output import Output, folder
from onnxptq.cli.values import add_json, add_output, positive, threads

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onnxptq.evaluate.task import Task
    from onnxptq.report.data import Report

BITS = ("w8a8", "w6a6", "w4a4")
PICTURES = 12


def add(parser: ArgumentParser) -> None:
    """Options."""
    add_output(parser, "folder for the files (default onnxptq-demo)", metavar="DIR", default="onnxptq-demo")
    parser.add_argument(
        "--ris", action="store_true", help="referring segmentation (LAVT) instead of segmentation by boxes (SAM)"
    )
    parser.add_argument(
        "--recipe",
        action=Listing,
        rows=recipes,
        default="auto",
        metavar="NAME",
        help="recipe by name, or a TOML file (default auto); without NAME: a list of them",
    )
    parser.add_argument("--bits", action="append", metavar="wXaY", help=f"may be repeated (default {', '.join(BITS)})")
    parser.add_argument("--samples", type=positive, default=16, metavar="N", help="scenes to calibrate on (default 16)")
    parser.add_argument(
        "--limit", type=positive, default=30, metavar="N", help="scenes to compare masks on (default 30)"
    )
    parser.add_argument("--threads", type=threads, metavar="N", help="threads of onnxruntime")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Quantize the zoo's models at each width, score their masks and the originals', write pages."""
    from onnxptq.bits import Bits
    from onnxptq.recipe import Recipe

    Recipe.load(args.recipe)
    for bits in args.bits or ():
        Bits.parse(bits)
    with folder(Path(args.output)):
        return _run(args, out, Path(args.output))


def _run(args: Namespace, out: Output, folder: Path) -> int:
    from onnxptq.datasets import zoo
    from onnxptq.evaluate.pictures import Gallery
    from onnxptq.evaluate.task import evaluate_task
    from onnxptq.graph.save import write_atomic
    from onnxptq.report.text import megabytes, table

    names = ("lavt-mini",) if args.ris else ("sam-mini-encoder", "sam-mini-decoder")
    files = {"original": [zoo.path(name) for name in names]}
    reports: dict[str, list[Report]] = {"original": []}
    for bits in args.bits or BITS:
        made = [_quantized(name, bits, folder, args, out) for name in names]
        files[bits], reports[bits] = [path for path, _ in made], [report for _, report in made]
    task, predictors = _task(args), {label: _predictor(paths, args) for label, paths in files.items()}
    with out.progress().task("masks", args.limit) as step:
        gallery = Gallery(folder / "masks", most=PICTURES)
        found = evaluate_task(task, predictors, limit=args.limit, watch=lambda done, of: step(), paint=gallery)
    rows, entries = [], []
    for row in found.rows:
        size = sum(path.stat().st_size for path in files[row.model])
        worst = min(
            (m.sqnr for r in reports[row.model] for m in r.outputs.values() if m.sqnr is not None), default=None
        )
        entries.append({"model": row.model, "bytes": size, "sqnr": worst, "agreement": row.agreement, **row.figures})
        cells = [f"{row.figures[task.main]:.1f}", "-" if row.agreement is None else f"{row.agreement:.1f}"]
        rows.append([row.model, megabytes(size), "-" if worst is None else f"{worst:.1f}", *cells])
    header = ["model", "size", "SQNR dB", f"{task.main} %", "same masks %"]
    about = f"{len(task)} scenes never calibrated on; same masks: mean IoU with the original's."
    write_atomic(folder / "index.html", _page(header, rows, about, files, args).encode())
    out.say("\n" + table(header, rows, right=range(1, 5)))
    out.say(f"\n{about} Masks and reports: {folder / 'index.html'}")
    out.emit({"task": task.name, "folder": str(folder), "models": entries})
    return 0


def _quantized(name: str, bits: str, folder: Path, args: Namespace, out: Output) -> tuple[Path, Report]:
    """One model at one width, saved with its page."""
    from onnxptq.datasets import zoo
    from onnxptq.graph.save import write_atomic
    from onnxptq.quantizer import Quantizer
    from onnxptq.report.html import page

    out.say(f"{name} at {bits}")
    q = Quantizer(zoo.path(name), recipe=args.recipe, bits=bits, threads=args.threads, progress=out.progress())
    q.calibrate(list(_samples(name, args)))
    result = q.quantize()
    path = folder / f"{name}.{bits}.onnx"
    result.save(path)
    report = replace(result.report, model=f"{name}.onnx", output_file=path.name)
    write_atomic(path.with_suffix(".html"), page(report))
    return path, report


def _page(header: list[str], rows: list[list[str]], about: str, files: dict[str, list[Path]], args: Namespace) -> str:
    """The table, links to the models' own pages, and masks side by side."""
    from onnxptq.report.pages import render

    return render(
        "demo.html.j2",
        title="onnxptq demo",
        model="LAVT" if args.ris else "Segment Anything",
        recipe=args.recipe,
        about=about,
        header=header,
        rows=rows,
        files=[path for bits, paths in files.items() if bits != "original" for path in paths],
        prompts="one sentence each" if args.ris else "each by its box",
        pictures=min(PICTURES, args.limit),
    )


def _samples(name: str, args: Namespace) -> Iterable[dict[str, Any]]:
    from onnxptq.datasets import zoo
    from onnxptq.running.sessions import session

    if name == "lavt-mini":
        return zoo.lavt_calibration(args.samples)
    if name == "sam-mini-encoder":
        return zoo.encoder_calibration(args.samples)
    return zoo.decoder_calibration(session(zoo.path("sam-mini-encoder"), threads=args.threads), args.samples)


def _task(args: Namespace) -> Task[Any]:
    from onnxptq.evaluate.tasks.scenes import SceneBoxes, SceneRefs

    return SceneRefs(count=args.limit) if args.ris else SceneBoxes(count=args.limit)


def _predictor(paths: list[Path], args: Namespace) -> Any:
    from onnxptq.datasets import zoo
    from onnxptq.evaluate.predictors import LavtPredictor, SamPredictor

    if args.ris:
        return LavtPredictor(paths[0], zoo.tokenizer(), threads=args.threads)
    return SamPredictor(paths[0], paths[1], threads=args.threads)
