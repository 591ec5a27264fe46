"""From what ``calibrate`` found to a Result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxptq.calibration.sources.split import Samples
from onnxptq.pipeline import reporting, stages
from onnxptq.pipeline.budget import broken
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.stages import Prepared, Solved
from onnxptq.report.data import Verdict
from onnxptq.report.introduction import introduce, introduction
from onnxptq.result import Result


@dataclass(frozen=True)
class Calibration:
    """The result of ``calibrate``, and its samples."""

    samples: Samples
    solved: Solved
    verdicts: tuple[Verdict, ...]
    """Scores of the candidates that the selection compared."""
    context: RunContext
    preprocess: str | None
    """How images became inputs, where images were read."""
    warnings: tuple[str, ...]


def finish(prepared: Prepared, held: Calibration, config: RunConfig) -> Result:
    """Lower, verify, measure."""
    context = held.context
    with context.watch.stage("lower"):
        lowered = stages.lower(held.solved, config)
    with context.watch.stage("verify"):
        outputs = stages.verify(prepared, lowered, held.samples, config)
    report = reporting.report(
        prepared,
        held.solved,
        lowered,
        outputs,
        held.samples,
        config,
        context,
        selection=held.verdicts,
        settings={"preprocess": held.preprocess} if held.preprocess is not None else {},
        warnings=(*held.warnings, *broken(config, lowered.proto.ByteSize(), outputs)),
    )
    target = config.target
    introduce(lowered.proto, introduction(report, target.how_to_load if target is not None else None))
    sizes = replace(report.sizes, after=lowered.proto.ByteSize())
    return Result(lowered.proto, held.solved.plan, replace(report, sizes=sizes))
