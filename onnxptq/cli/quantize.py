"""``onnxptq quantize``: the main job."""

from __future__ import annotations

import os
from argparse import SUPPRESS, ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from onnxptq.cli.output import Output, distinct, spare, writable
from onnxptq.cli.values import (
    BITS,
    RECIPE,
    add_json,
    add_model,
    add_output,
    add_samples,
    add_target,
    add_workers,
    size,
    threads,
)
from onnxptq.errors import ArtifactError, InputError
from onnxptq.lower import CONSTANTS, FORMATS
from onnxptq.targets.target import Target

if TYPE_CHECKING:
    from onnxptq.plan import Plan
    from onnxptq.quantizer import Quantizer
    from onnxptq.report.answer import Speed
    from onnxptq.workers import Workers


def add(parser: ArgumentParser) -> None:
    """Options."""
    add_model(parser)
    add_output(parser, "file to write (default: MODEL.wXaY[.TARGET].onnx beside the model)")
    method = parser.add_argument_group("method")
    method.add_argument("--no-bimodal", action="store_true", help=SUPPRESS)
    method.add_argument("--no-agq", action="store_true", help=SUPPRESS)
    method.add_argument(
        "--plan-in", metavar="FILE", help="take schemes, bits and parameters from a plan instead of the recipe"
    )
    method.add_argument("--plan-out", metavar="FILE", help="write the finished plan: it can be edited and used again")
    written = parser.add_argument_group("artifact")
    add_target(written, "the runtime that the file is for, which decides format and codes")
    written.add_argument(
        "--format",
        choices=FORMATS,
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
    budget = parser.add_argument_group("budget", "a width for each site; weights none wider than --bits")
    budget.add_argument("--max-size", type=size, metavar="40MB", help="best weights for a file of at most this size")
    budget.add_argument(
        "--max-loss", type=float, metavar="POINTS", help="smallest weights that lose at most this much mask agreement"
    )
    budget.add_argument("--min-sqnr", type=float, metavar="DB", help="smallest weights that keep this SQNR")
    add_samples(parser, "--calib")
    engine = parser.add_argument_group("run")
    engine.add_argument("--threads", type=threads, metavar="N", help="threads of onnxruntime")
    engine.add_argument(
        "--memory-limit", type=size, metavar="4GB", help="limit for the tensors and statistics held at a time"
    )
    add_workers(engine)
    engine.add_argument("--resume", action="store_true", help="go on with a run that was killed")
    engine.add_argument(
        "--no-speed", action="store_true", help="do not measure the speed at the end (also ONNXPTQ_SPEED=off)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="everything that was found, decided and measured")
    add_json(parser)


def run(args: Namespace, out: Output) -> int:
    """Load, calibrate, lower, verify; then write."""
    from onnxptq.bits import Bits
    from onnxptq.calibration.checkpoint import locked
    from onnxptq.graph.save import remove_parts
    from onnxptq.graph.size import source_files
    from onnxptq.plan import Plan
    from onnxptq.workers import opened

    model = Path(args.model)
    if args.target is not None:
        Target.load(args.target)
    plan = Plan.load(args.plan_in) if args.plan_in else None
    if plan is not None:
        _agree(args, plan)
    bits = plan.bits if plan is not None else args.bits or BITS
    if plan is not None and args.target is None and args.format is None:
        args.target = plan.target or None
    wished = any(wish is not None for wish in (args.max_size, args.max_loss, args.min_sqnr))
    widths = "mixed" if wished else str(Bits.parse(bits))
    output = Path(args.output) if args.output else default_output(model, widths, args.target)
    outputs = {"-o": output, "--report": args.report, "--plan-out": args.plan_out}
    if args.output or model.is_file():
        distinct({option: writable(path, model=model) for option, path in outputs.items() if path})
    with opened(args.workers, args.engine) as workers:
        q = quantizer(args, out, plan, workers)
        spare(
            (str(path) for path in (*outputs.values(), f"{output}.data") if path),
            (*source_files(model), *(path for path in (args.plan_in, args.recipe, args.calib) if path)),
        )
        checkpoint = output.with_name(f"{output.name}.resume") if output.is_file() or not output.exists() else None
        if checkpoint is None:
            return _quantize(q, args, out, output, None)
        with locked(checkpoint):
            remove_parts(output)
            return _quantize(q, args, out, output, checkpoint)


def _quantize(q: Quantizer, args: Namespace, out: Output, output: Path, checkpoint: Path | None) -> int:
    """The run itself. The checkpoint stays if the run is stopped, or continues an earlier run."""
    from onnxptq.calibration.checkpoint import discard, holds
    from onnxptq.graph.save import write_atomic
    from onnxptq.report.answer import answer
    from onnxptq.report.html import page
    from onnxptq.report.text import summary

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
        for warning in report.warnings:
            out.warn(warning)
        if args.plan_out:
            result.plan.save(args.plan_out)
        if args.report:
            write_atomic(args.report, page(report).encode(errors="backslashreplace"))
    except KeyboardInterrupt as stop:
        if checkpoint is not None and holds(checkpoint):
            stop.args = (f"what was found is kept in {checkpoint}; give the same command with --resume to go on",)
        elif checkpoint is not None:
            discard(checkpoint)
        raise
    except BaseException:
        if checkpoint is not None and not args.resume:
            discard(checkpoint)
        raise
    if checkpoint is not None:
        discard(checkpoint)
    if args.verbose:
        out.say(f"{summary(report)}\n")
    out.say(answer(report, args.report, _speed(q, args, out, output), args.target))
    out.emit(report.to_json())
    return 0


def _speed(q: Quantizer, args: Namespace, out: Output, output: Path) -> Speed | None:
    """The speed here, unless measuring is switched off or takes long. It is in no report: it varies."""
    from onnxptq.report.answer import MEASURED
    from onnxptq.report.speed import here

    if (
        args.no_speed
        or os.environ.get("ONNXPTQ_SPEED") == "off"
        or args.target not in MEASURED
        or q.calibration is None
    ):
        return None
    native = q.config.format == "native"
    try:
        return here(args.model, str(output), next(iter(q.calibration.samples.report)), native=native)
    except (InputError, ArtifactError) as error:
        out.warn(f"the speed was not measured: {error}")
        return None


def _agree(args: Namespace, plan: Plan) -> None:
    """Raise an InputError if an option contradicts the plan or has no effect with it."""
    from onnxptq.bits import Bits

    name = args.plan_in
    if args.bits and str(Bits.parse(args.bits)) != plan.bits:
        raise InputError(f"--bits {args.bits}: {name} was made for {plan.bits}; leave --bits out or make a plan anew")
    if args.recipe and Path(args.recipe).stem != plan.recipe:
        raise InputError(f"--recipe {args.recipe}: {name} was made by {plan.recipe}; leave --recipe out")
    for option, given in (("--exclude", args.exclude), ("--include", args.include)):
        if given:
            raise InputError(f'{option}: {name} says which sites are quantized; edit it, scheme "float" leaves one out')
    for option in ("max_size", "max_loss", "min_sqnr"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option.replace('_', '-')}: {name} says the width of each site; make a plan anew")
    for option, given in (("--set", args.set), ("--no-bimodal", args.no_bimodal), ("--no-agq", args.no_agq)):
        if given:
            raise InputError(f"{option}: {name} says what is done to each site; edit it, or make a plan anew")


def quantizer(args: Namespace, out: Output, plan: Plan | None = None, workers: Workers | None = None) -> Quantizer:
    """A Quantizer with the options of the command line."""
    from onnxptq.quantizer import Quantizer
    from onnxptq.workers import HERE

    settings = dict(args.set) | {name: "off" for name in ("bimodal", "agq") if getattr(args, f"no_{name}", False)}
    return Quantizer(
        args.model,
        recipe=args.recipe or RECIPE,
        bits=args.bits or BITS,
        format=getattr(args, "format", None),
        target=getattr(args, "target", None),
        constants=getattr(args, "constants", "fp16"),
        strict=getattr(args, "strict", False),
        plan=plan,
        max_size=getattr(args, "max_size", None),
        max_loss=getattr(args, "max_loss", None),
        min_sqnr=getattr(args, "min_sqnr", None),
        exclude=args.exclude,
        include=args.include,
        mask=args.mask,
        roles=dict(args.role),
        shapes=dict(args.shape),
        settings=settings,
        seed=args.seed,
        draw=args.draw,
        threads=args.threads,
        progress=out.progress(),
        workers=workers or HERE,
    )


def default_output(model: Path, bits: str, target: str | None = None) -> Path:
    """MODEL.wXaY.onnx beside the model, MODEL.wXaY.TARGET.onnx for a target."""
    stem = model.name.removesuffix(".onnx")
    return model.with_name(".".join([stem, bits.replace(":", ""), *([target] if target else []), "onnx"]))
