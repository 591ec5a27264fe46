"""``onnxptq quantize``: the main job."""

from __future__ import annotations

import shutil
from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxptq.cli.output import Output, writable
from onnxptq.cli.values import add_json, add_model, add_samples, positive, size
from onnxptq.errors import InputError
from onnxptq.lower import CONSTANTS, FORMATS

if TYPE_CHECKING:
    from onnxptq.plan import Plan
    from onnxptq.quantizer import Quantizer


def add(parser: ArgumentParser) -> None:
    """Options."""
    add_model(parser)
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="file to write (default: MODEL.wXaY.onnx beside the model)"
    )
    method = parser.add_argument_group("method")
    method.add_argument("--no-bimodal", action="store_true", help=SUPPRESS)
    method.add_argument("--no-agq", action="store_true", help=SUPPRESS)
    method.add_argument(
        "--plan-in", metavar="FILE", help="take schemes, bits and parameters from a plan instead of the recipe"
    )
    method.add_argument("--plan-out", metavar="FILE", help="write the finished plan: it can be edited and used again")
    written = parser.add_argument_group("artifact")
    written.add_argument(
        "--format",
        choices=FORMATS,
        default="native",
        help="native: our ops, function bodies inside (default); portable; qdq",
    )
    written.add_argument(
        "--constants",
        choices=CONSTANTS,
        default="fp16",
        help="how constants no quantizer claims are stored (default fp16)",
    )
    written.add_argument("--strict", action="store_true", help="fail if the format cannot express the plan")
    written.add_argument("--report", metavar="OUT.html", help="write a page about what was done and why")
    add_samples(parser, "--calib")
    engine = parser.add_argument_group("run")
    engine.add_argument("--threads", type=positive, metavar="N", help="threads of onnxruntime")
    engine.add_argument(
        "--memory-limit", type=size, metavar="4GB", help="limit for the tensors and statistics held at a time"
    )
    engine.add_argument("--resume", action="store_true", help="go on with a run that was killed")
    parser.add_argument("-v", "--verbose", action="store_true", help="everything that was found, decided and measured")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Load, calibrate, lower, verify; then write."""
    from onnxptq.bits import Bits
    from onnxptq.graph.save import write_atomic
    from onnxptq.plan import Plan
    from onnxptq.report.answer import answer
    from onnxptq.report.html import page
    from onnxptq.report.text import summary

    model = Path(args.model)
    output = Path(args.output) if args.output else default_output(model, str(Bits.parse(args.bits)))
    if args.output or model.is_file():
        writable(output, model=model)
    extra = {
        option: writable(path, model=model)
        for option, path in (("report", args.report), ("plan", args.plan_out))
        if path
    }
    plan = Plan.read(args.plan_in) if args.plan_in else None
    q = quantizer(args, out, plan)
    checkpoint = output.with_name(f"{output.name}.resume") if output.is_file() or not output.exists() else None
    try:
        q.calibrate(
            args.calib,
            limit=args.samples,
            preprocess=args.preprocess,
            memory_limit=args.memory_limit,
            folder=checkpoint,
            resume=args.resume,
        )
        result = q.quantize()
        report = replace(result.report, output_file=str(output))
        result.save(output)
    except (InputError, OSError):
        if not args.resume:
            forget(checkpoint)
        raise
    for warning in report.warnings:
        out.warn(warning)
    if "plan" in extra:
        write_atomic(extra["plan"], result.plan.to_json() + "\n")
    if "report" in extra:
        write_atomic(extra["report"], page(report))
    forget(checkpoint)
    out.say(f"{summary(report)}\n" if args.verbose else "")
    out.say(answer(report, args.report))
    out.emit(report.to_json())
    return 0


def quantizer(args: Namespace, out: Output, plan: Plan | None = None) -> Quantizer:
    """A Quantizer with the options of the command line."""
    from onnxptq.calibration.progress import progress_on
    from onnxptq.quantizer import Quantizer

    settings = dict(args.set) | {name: "off" for name in ("bimodal", "agq") if getattr(args, f"no_{name}", False)}
    return Quantizer(
        args.model,
        recipe=args.recipe,
        bits=args.bits,
        format=getattr(args, "format", "native"),
        constants=getattr(args, "constants", "fp16"),
        strict=getattr(args, "strict", False),
        plan=plan,
        exclude=args.exclude,
        include=args.include,
        mask=args.mask,
        roles=dict(args.role),
        shapes=dict(args.shape),
        settings=settings,
        seed=args.seed,
        threads=args.threads,
        progress=progress_on(out.stream),
    )


def forget(checkpoint: Path | None) -> None:
    """Remove a checkpoint; a folder that is none is left alone."""
    if checkpoint is not None and (checkpoint / "run.json").is_file():
        shutil.rmtree(checkpoint, ignore_errors=True)


def default_output(model: Path, bits: str) -> Path:
    """MODEL.wXaY.onnx beside the model."""
    stem = model.name.removesuffix(".onnx")
    return model.with_name(f"{stem}.{bits}.onnx")
