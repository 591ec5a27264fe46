"""``onnxptq evaluate``: task metrics on a dataset, models side by side."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxptq.cli.output import Output
from onnxptq.cli.values import add_run, add_workers, positive
from onnxptq.errors import InputError

if TYPE_CHECKING:
    from onnxptq.evaluate.task import Evaluation, Task

TASKS = {
    "sam": "procedural scenes, every object by its box (needs no data)",
    "ris": "procedural scenes, referring expressions (needs no data)",
    "coco": "instance segmentation by box prompts: instances.json, mAP",
    "refcoco": "referring segmentation: refs and instances of RefCOCO, RefCOCO+, RefCOCOg; MIoU, OIoU, P@X",
    "ade20k": "semantic refinement of a coarse segmentation: scene-parsing layout, mIoU",
    "dota": "oriented boxes from masks: images and labelTxt, rotated mAP",
}


DEFAULT_MODEL = {"sam": "zoo:sam-mini", "ris": "zoo:lavt-mini"}
DEFAULT_SPLIT = {"ade20k": "validation"}


def add(parser: ArgumentParser) -> None:
    """Options."""
    parser.add_argument(
        "task", metavar="TASK", choices=list(TASKS), help="; ".join(f"{name}: {about}" for name, about in TASKS.items())
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="the FP32 model: FILE.onnx for ris and refcoco; else ENCODER.onnx,DECODER.onnx or a folder with both",
    )
    parser.add_argument(
        "--quantized",
        metavar="Q",
        action="append",
        default=[],
        help="a model to judge, given like --model; may be repeated",
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="use the first N samples")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="write pictures of the first 24 samples' masks")
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, metavar="D", help="instances.json (coco) or the data set's folder (refcoco, ade20k, dota)"
    )
    data.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="where photographs lie, if not beside the annotations (coco, refcoco)",
    )
    data.add_argument(
        "--split",
        metavar="S",
        help="val (default), testA, testB, train, ...; validation (default) or training for ade20k",
    )
    data.add_argument(
        "--benchmark", metavar="B", default="refscene", help="of ris: refscene (default), refscene+ or refscene-g"
    )
    data.add_argument("--partition", metavar="P", help="of refcoco: unc, umd or google, where there are several")
    data.add_argument(
        "--boxes",
        type=Path,
        metavar="JSON",
        help="of coco: a detector's results; without it the true boxes are the prompts",
    )
    data.add_argument(
        "--coarse", type=Path, metavar="DIR", help="of ade20k: class maps to refine (default: D/predictions)"
    )
    data.add_argument(
        "--vocab", type=Path, metavar="FILE", help="of ris and refcoco: the model's vocab.txt (default: the zoo's)"
    )
    add_workers(parser)
    add_run(parser)


def run(args: Namespace, out: Output) -> int:
    """Load, run, print."""
    from onnxptq.evaluate.pictures import Gallery
    from onnxptq.evaluate.task import evaluate_task
    from onnxptq.workers import opened

    task = open_task(args)
    total = min(len(task), args.limit or len(task))
    gallery = Gallery(args.pictures) if args.pictures else None
    with opened(args.workers, args.engine) as workers:
        args.threads = workers.threads(args.threads)
        models = _models(args)
        title = f"{args.task}, {len(models)} models" if len(models) > 1 else args.task
        with out.progress().task(title, total) as advance:
            found = evaluate_task(
                task, models, limit=args.limit, watch=lambda done, of: advance(), paint=gallery, workers=workers
            )
    out.say(table(found))
    out.emit(found.to_json())
    return 0


def table(found: Evaluation) -> str:
    """Models as rows, figures as columns, the agreement with the first model last."""
    from onnxptq.report.text import table as aligned

    figures = list(found.rows[0].figures)
    header = ["model", *figures, *(["agreement"] if len(found.rows) > 1 else [])]
    rows = []
    for row in found.rows:
        cells = [
            f"{row.figures[name]:.0f}" if name in ("masks", "sentences") else f"{row.figures[name]:.2f}"
            for name in figures
        ]
        shown = "-" if row.agreement is None else f"{row.agreement:.2f}"
        rows.append([row.model, *cells, *([shown] if len(found.rows) > 1 else [])])
    return f"{found.task}: {found.samples} samples\n" + aligned(header, rows, right=range(1, len(header)))


def open_task(args: Namespace) -> Task[Any]:
    """The task with its data."""
    if args.task not in ("sam", "ris") and args.data is None:
        raise InputError(
            f"evaluate {args.task}: --data is missing; give "
            f"{'instances.json' if args.task == 'coco' else 'the folder of the data set'}"
        )
    split = args.split or DEFAULT_SPLIT.get(args.task, "val")
    if args.task == "sam":
        from onnxptq.evaluate.tasks.scenes import SceneBoxes

        return SceneBoxes(split, args.limit or 250)
    if args.task == "ris":
        from onnxptq.evaluate.tasks.scenes import SceneRefs

        return SceneRefs(args.benchmark, split, args.limit or 500)
    if args.task == "coco":
        from onnxptq.datasets.coco import Coco
        from onnxptq.evaluate.tasks.coco import CocoBoxes

        data = Coco.load(args.data, args.images)
        return CocoBoxes(data, data.detections(args.boxes) if args.boxes else None)
    if args.task == "refcoco":
        from onnxptq.datasets.refcoco import RefCoco
        from onnxptq.evaluate.tasks.refcoco import RefCocoSentences

        return RefCocoSentences(RefCoco.load(args.data, split=split, partition=args.partition, images=args.images))
    if args.task == "ade20k":
        from onnxptq.datasets.ade20k import Ade20k
        from onnxptq.evaluate.tasks.ade20k import Ade20kRefinement

        return Ade20kRefinement(Ade20k.load(args.data, split=split, coarse=args.coarse))
    from onnxptq.datasets.dota import Dota
    from onnxptq.evaluate.tasks.dota import DotaRectangles

    return DotaRectangles(Dota.load(args.data))


def open_model(args: Namespace, spec: str) -> Any:
    """The predictor of the task."""
    from onnxptq.evaluate.models import open_lavt, open_sam

    if args.task in ("ris", "refcoco"):
        return open_lavt(spec, vocabulary=args.vocab, executor=args.executor, threads=args.threads)
    return open_sam(spec, executor=args.executor, threads=args.threads)


def _models(args: Namespace) -> dict[str, Any]:
    """Predictors by their given names; for the zoo's own scenes the zoo's model is the default."""
    first = args.model or DEFAULT_MODEL.get(args.task)
    if first is None:
        raise InputError(f"evaluate {args.task}: --model is missing")
    found: dict[str, Any] = {}
    for spec in (first, *args.quantized):
        if spec in found:
            raise InputError(f"model {spec} is given twice")
        found[spec] = open_model(args, spec)
    return found
