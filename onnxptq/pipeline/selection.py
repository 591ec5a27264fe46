"""Selection: solve the recipe and its baselines, and keep the one whose outputs agree best with the original's.

The samples of the comparison are fitted by none of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import onnx

from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.sources.split import Samples
from onnxptq.errors import ArtifactError
from onnxptq.pipeline.candidates import by_recipe, native_proto, rounded
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.stages import Prepared, Solved
from onnxptq.recipe import ROUNDED
from onnxptq.report.data import Verdict
from onnxptq.running.compare import outputs
from onnxptq.running.masks import pictures
from onnxptq.running.metrics import Metrics
from onnxptq.running.runner import Cut, Spool, run_on


def select(
    prepared: Prepared, solved: Solved, samples: Samples, config: RunConfig, context: RunContext
) -> tuple[Solved, tuple[Verdict, ...]]:
    """The best of ``solved`` and the recipe's baselines, and the score of each. An existing plan is kept."""
    if config.plan is not None:
        return solved, ()
    candidates = {config.recipe.name: solved}
    for entry in config.recipe.selection:
        with context.watch.stage(config.comparing(entry)):
            if entry == ROUNDED:
                alone = rounded(solved, samples, config, context)
                if alone is not None:
                    candidates[f"{config.recipe.name}, weights rounded one by one"] = alone
            else:
                name = config.candidate(entry)
                candidates[name] = by_recipe(
                    prepared, samples, config.by(config.recipe.baseline(entry)), context.within(name), like=solved
                )
    if len(candidates) == 1:
        return solved, ()
    with context.watch.stage("selection"):
        verdicts = judge(
            prepared.model.to_proto,
            {name: partial(native_proto, one) for name, one in candidates.items()},
            samples.selection,
            cut=unpadded(prepared.model, prepared.structure.masks),
            threads=config.threads,
            context=context,
        )
    return next(candidates[verdict.candidate] for verdict in verdicts if verdict.kept), verdicts


def judge(
    original: Callable[[], onnx.ModelProto],
    candidates: Mapping[str, Callable[[], onnx.ModelProto]],
    samples: Source,
    *,
    cut: Cut,
    threads: int | None,
    context: RunContext,
) -> tuple[Verdict, ...]:
    """A verdict on each candidate; the best one is kept (of equals the first)."""
    verdicts = []
    with Spool() as expected, context.progress.task("selection", len(candidates)) as step:
        on = partial(run_on, context.workers, samples=samples, cut=cut, threads=threads)
        expected.fill(on(original, name="the original"))
        for name, make in candidates.items():
            got = on(make, name=f"the model quantized by {name}")
            found = outputs(expected, got, pictures=map(pictures, samples), error=ArtifactError)
            verdicts.append(_verdict(name, found))
            step()
    best = max(verdicts, key=lambda verdict: verdict.rank)
    return tuple(replace(verdict, kept=verdict is best) for verdict in verdicts)


def _verdict(name: str, outputs: Mapping[str, Metrics]) -> Verdict:
    """Round scores to few digits: executors differ in the last ones, which should not decide."""
    masks = [100 * one.agreement for one in outputs.values() if one.agreement is not None]
    return Verdict(name, round(statistics.fmean(masks), 2) if masks else None, mean_sqnr(outputs))


def mean_sqnr(outputs: Mapping[str, Metrics]) -> float | None:
    """Mean over the outputs of their median SQNR, dB; None if no output has one."""
    ratios = [min(max(one.median, -200.0), 200.0) for one in outputs.values() if one.median is not None]
    return round(statistics.fmean(ratios), 2) if ratios else None
