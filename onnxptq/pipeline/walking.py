"""Walks over samples: the engine of a stage, and the gradients that weight errors for some calibrators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from onnxptq import learn
from onnxptq.calibration.engine import Engine
from onnxptq.calibration.gradients import Gradients
from onnxptq.calibration.sources.source import Source
from onnxptq.calibrators import calibrators
from onnxptq.graph.model import Model
from onnxptq.passes import passes
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.plan import Choice
from onnxptq.structure import Structure
from onnxptq.structure.outputs import likelihood


def walks(
    model: Model,
    structure: Structure,
    source: Source,
    config: RunConfig,
    context: RunContext,
    *,
    first: int = 0,
    gradients: Gradients | None = None,
) -> Engine:
    """Walks of a model over samples; ``first`` is the number of the first one in the checkpoint."""
    return Engine(
        model,
        source,
        masks=structure.masks,
        memory_limit=config.memory_limit,
        threads=config.threads,
        checkpoint=context.checkpoint,
        progress=context.progress,
        gradients=gradients,
        first=first,
        workers=context.workers,
    )


def weighted(
    todo: dict[str, Choice], model: Model, structure: Structure, config: RunConfig
) -> tuple[dict[str, Choice], Gradients | None, tuple[str, ...]]:
    """The choices to search, and the gradients that weight errors for some; without torch all weights are equal."""
    known = calibrators()
    wanted = [k for k, c in todo.items() if c.calibrator in known and known[c.calibrator].weighs(c)]
    if not wanted:
        return todo, None, ()
    if not learn.available():
        alike = {key: replace(todo[key], options={**todo[key].options, "metric": "mse"}) for key in wanted}
        note = "torch is not installed (extra [learn]): errors weigh the same everywhere, as with metric=mse"
        return todo | alike, None, (note,)
    from onnxptq.learn.fisher import Fisher

    return todo, Fisher(likelihood=likelihood(model, structure), seed=config.seed, threads=1), ()


def pass_options(name: str, config: RunConfig) -> dict[str, Any]:
    """The recipe's options of a pass; its width is that of the activations, if it has one."""
    width = {"bits": min(config.bits.activations, 8)} if "bits" in passes()[name].options else {}
    return {**width, **config.recipe.pass_options.get(name, {})}
