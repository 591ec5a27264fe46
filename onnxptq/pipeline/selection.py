"""The gate: of several ways to quantize, the one is kept whose outputs agree best with the original's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace

import onnx

from onnxptq.calibration.progress import Progress
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.sources.split import Split
from onnxptq.errors import ArtifactError
from onnxptq.report.data import Verdict
from onnxptq.running.compare import Metrics, compare
from onnxptq.running.runner import Cut, Spool, run

SAMPLES = 16


def judge(
    original: Callable[[], onnx.ModelProto],
    ways: Mapping[str, Callable[[], onnx.ModelProto]],
    source: Source,
    *,
    cut: Cut,
    threads: int | None,
    progress: Progress,
) -> list[Verdict]:
    """A verdict on each way, the best one kept (of equals the first).

    Judged on the last samples, among them those that are kept out of calibration.
    """
    samples = list(Split(source, max(len(source) - SAMPLES, 0), len(source)))
    verdicts = []
    with Spool() as expected, progress.task("gate", len(ways)) as step:
        expected.fill(run(original, samples, name="the original", cut=cut, threads=threads))
        for way, make in ways.items():
            got = run(make, samples, name=f"the model quantized by {way}", cut=cut, threads=threads)
            verdicts.append(_verdict(way, compare(expected, got, error=ArtifactError)))
            step()
    best = max(verdicts, key=lambda verdict: verdict.rank)
    return [replace(verdict, kept=verdict is best) for verdict in verdicts]


def _verdict(way: str, outputs: Mapping[str, Metrics]) -> Verdict:
    """Few digits: executors differ in the last ones, and a choice should not."""
    masks = [100 * one.agreement for one in outputs.values() if one.agreement is not None]
    ratios = [min(max(one.median, -200.0), 200.0) for one in outputs.values() if one.median is not None]
    return Verdict(
        way,
        round(statistics.fmean(masks), 2) if masks else None,
        round(statistics.fmean(ratios), 2) if ratios else None,
    )
