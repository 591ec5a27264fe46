"""Candidates: a recipe taken through fold, calibrate and solve, and the same with weights rounded independently."""

from __future__ import annotations

from dataclasses import replace

import onnx

from onnxptq.calibration.sources.split import Samples
from onnxptq.calibrators.weight_base import WeightSolution
from onnxptq.lower import native
from onnxptq.pipeline import weights
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.stages import Prepared, Solved, calibrate, fold, planned, solve, with_weights
from onnxptq.recipe import Recipe
from onnxptq.structure import Role
from onnxptq.version import __version__


def by_recipe(
    prepared: Prepared, samples: Samples, config: RunConfig, context: RunContext, like: Solved | None = None
) -> Solved:
    """Run the recipe of ``config`` from fold to solve; reuse equal stages of ``like``."""
    weights.require(config.recipe)
    context = context.opened(identity(prepared, samples, config))
    same = like is not None and _passes(like.folded.recipe) == _passes(config.recipe)
    known = like.calibrated if like is not None and same else None
    folded = known.folded if known is not None else fold(prepared, samples, config, context)
    calibrated = calibrate(folded, samples, config, context, known, prepared.name)
    calibrated = replace(calibrated, plan=calibrated.plan.about(model=prepared.digest))
    solved = solve(calibrated, samples, config, context)
    damaged = context.checkpoint.warnings if context.checkpoint is not None else ()
    return replace(solved, calibrated=replace(solved.calibrated, warnings=(*calibrated.warnings, *damaged)))


def _passes(recipe: Recipe) -> tuple[object, ...]:
    return recipe.passes, recipe.pass_options


def identity(prepared: Prepared, samples: Samples, config: RunConfig) -> dict[str, str]:
    """The identity of a run: a killed run may be resumed by one of the same identity."""
    recipe = config.recipe
    return {
        "version": __version__,
        "model": prepared.digest,
        "recipe": repr((recipe.name, recipe.passes, recipe.pass_options)),
        "bits": str(config.bits),
        "format": config.format,
        "target": config.target.name if config.target is not None else "",
        "samples": samples.calibration.digest(),
        "plan": planned(prepared.name, prepared.structure, config)[0].to_json(),
        "seed": str(config.seed),
    }


def native_proto(solved: Solved) -> onnx.ModelProto:
    """The candidate in format native, in which all candidates are compared."""
    return native.lower(solved.model, solved.structure, solved.plan).proto


def rounded(solved: Solved, samples: Samples, config: RunConfig, context: RunContext) -> Solved | None:
    """The same with weights rounded independently instead of jointly; None if no weight was solved jointly."""
    if not solved.moved:
        return None
    calibrated, wanted = solved.calibrated, {key: solved.calibrated.plan[key] for key in solved.moved}
    folded, plan = calibrated.folded, calibrated.plan
    problem = weights.problem(folded.model, folded.structure, plan, samples, config, context)
    solutions = weights.find(weights.fallback(wanted), problem)
    kept = {
        k: WeightSolution(c)
        for k, c in solved.plan.items()
        if k not in wanted and solved.plan.sites[k].role is Role.WEIGHT
    }
    return with_weights(calibrated, kept | solutions, config)
