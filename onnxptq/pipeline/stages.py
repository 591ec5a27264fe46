"""The stages of a run, in order, each a function from one frozen value to the next:

    prepare     the file            -> Prepared     canonical graph, and the structure found in it
    fold        Prepared            -> Folded       exact rewrites that make tensors easier to code, proven on samples
    calibrate   Folded              -> Calibrated   parameters of every activation
    solve       Calibrated          -> Solved       every weight as codes, made up for the errors of the activations
    lower       Solved              -> Lowered      the file in its format
    verify      Prepared, Lowered   -> metrics      outputs of the file beside those of the original

Before ``lower`` the selection may keep another recipe's Solved. ``reporting.py`` makes a Report of all values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import onnx

from onnxptq.calibration.padding import unpadded
from onnxptq.calibration.sources.split import Samples
from onnxptq.calibrators.base import searches
from onnxptq.calibrators.weight_base import WeightSolution
from onnxptq.errors import InputError
from onnxptq.graph.canonical import canonicalise
from onnxptq.graph.load import load
from onnxptq.graph.model import Model
from onnxptq.graph.quantized import refuse_quantized
from onnxptq.graph.size import digest, source_size
from onnxptq.graph.source import readable
from onnxptq.lower import Format, native, portable, qdq
from onnxptq.lower.writer import Lowered
from onnxptq.passes.base import Change, run_passes
from onnxptq.pipeline import weights
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.pipeline.expressible import expressible
from onnxptq.pipeline.reparameterised import kept
from onnxptq.pipeline.walking import pass_options, walks, weighted
from onnxptq.placement import applied
from onnxptq.plan import Plan
from onnxptq.recipe import Recipe
from onnxptq.report.left import hidden
from onnxptq.running import compare
from onnxptq.running.metrics import Metrics
from onnxptq.running.runner import run
from onnxptq.structure import Role, Structure, discover

PROOFS = 2
"""Samples on which passes are proven."""
CALIBRATION_WALKS = 100
"""Number of calibration's first walk in a checkpoint, after those of the passes."""
LOWER: dict[Format, Callable[..., Lowered]] = {"native": native.lower, "portable": portable.lower, "qdq": qdq.lower}


@dataclass(frozen=True)
class Prepared:
    """The model in canonical form, with its structure."""

    name: str
    size: int
    """Bytes of the file."""
    model: Model
    structure: Structure

    @cached_property
    def digest(self) -> str:
        """Hash of the model."""
        return digest(self.model)


@dataclass(frozen=True)
class Folded:
    """The model after its passes: the same function, easier to quantize."""

    model: Model
    structure: Structure
    recipe: Recipe
    changes: tuple[Change, ...] = ()
    drift: Mapping[str, float] = field(default_factory=dict)
    """Drift of each output due to the passes, dB."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibrated:
    """A plan with parameters for its activations."""

    folded: Folded
    wanted: Plan
    """The plan before calibration."""
    plan: Plan
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Solved:
    """A plan with all parameters, and its model."""

    calibrated: Calibrated
    model: Model
    """The folded model with the weights that will be quantized."""
    structure: Structure
    plan: Plan
    moved: frozenset[str] = frozenset()
    """Sites of weights that differ from the model's on purpose."""

    @property
    def folded(self) -> Folded:
        """The model before its weights were solved."""
        return self.calibrated.folded

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings so far."""
        return (*self.folded.warnings, *self.calibrated.warnings)


def prepare(source: str | Path | bytes | onnx.ModelProto, config: RunConfig) -> Prepared:
    """Load the model, canonicalise it, and find its structure."""
    name = str(source) if isinstance(source, (str, Path)) else "model"
    with readable(name):
        loaded = load(source, shapes=dict(config.shapes))
        refuse_quantized(loaded, name)
        model = canonicalise(loaded)
        return Prepared(name, source_size(source), model, structure_of(model, config))


def structure_of(model: Model, config: RunConfig) -> Structure:
    """Find the sites, with the user's masks and roles."""
    return discover(model, mask=config.mask, roles=dict(config.roles))


def planned(name: str, structure: Structure, config: RunConfig) -> tuple[Plan, tuple[str, ...]]:
    """The recipe's choice for each site in scope, and warnings. An InputError if the target refuses a choice."""
    if config.plan is not None:
        if config.target is not None:
            config.target.refuse(config.plan)
        return config.plan, ()
    plan, warnings = config.recipe.plan(structure, config.bits, exclude=config.exclude, include=config.include)
    if not plan:
        raise InputError(
            f"{name}: no site to quantize: no Linear, Conv or attention in scope; "
            "`onnxptq inspect` shows what was found"
        )
    if config.target is not None:
        config.target.refuse(plan)
        warnings = [*warnings, *config.target.notes(plan, config.bits)]
    return plan.with_widths(config.widths).about(**config.facts), (*hidden(structure), *warnings)


def fold(prepared: Prepared, samples: Samples, config: RunConfig, context: RunContext) -> Folded:
    """Run the recipe's passes on a copy of the model, and prove that its outputs stay."""
    recipe = config.recipe
    if not recipe.passes:
        return Folded(prepared.model, prepared.structure, recipe)
    model = prepared.model.copy()
    engine = walks(model, prepared.structure, samples.calibration, config, context)
    proofs = [sample for sample, _ in zip(samples.calibration, range(PROOFS), strict=False)]
    with context.watch.stage("passes"):
        passed = run_passes(
            model,
            {name: pass_options(name, config) for name in recipe.passes},
            discover=lambda current: structure_of(current, config),
            fill=lambda current, requests, stage: engine.fill(requests, stage=stage, model=current),
            outputs=lambda current: list(
                run(current.to_proto, proofs, name=prepared.name, threads=config.threads, error=InputError)
            ),
        )
    return Folded(model, passed.structure, recipe, passed.changes, passed.drift, passed.warnings)


def calibrate(
    folded: Folded,
    samples: Samples,
    config: RunConfig,
    context: RunContext,
    known: Calibrated | None = None,
    name: str = "model",
) -> Calibrated:
    """Find the parameters of all activations, and of weights whose calibrator solves both operands together.

    Results of ``known`` for equal choices on the same folded model are reused.
    """
    wanted, warnings = planned(name, folded.structure, config)
    if config.plan is not None:
        wanted = applied(wanted, folded.structure)
    plan = kept(wanted, folded.changes)
    if known is not None:
        same = [key for key in plan if plan.sites[key].role is not Role.WEIGHT and known.wanted.get(key) == plan[key]]
        plan = plan.replace({key: known.plan[key] for key in same})
    todo, gradients, more = weighted(
        {k: c for k, c in plan.items() if c.params is None}, folded.model, folded.structure, config
    )
    engine = walks(
        folded.model,
        folded.structure,
        samples.calibration,
        config,
        context,
        first=CALIBRATION_WALKS,
        gradients=gradients,
    )
    with context.watch.stage("calibration"):
        together = engine.drive(searches(todo, plan.sites), stage="calibration")
        plan = plan.replace({key: choice for choices in together.values() for key, choice in choices.items()})
        plan, notes = expressible(plan, config, engine)
    return Calibrated(folded, wanted, plan, (*warnings, *more, *notes))


def solve(calibrated: Calibrated, samples: Samples, config: RunConfig, context: RunContext) -> Solved:
    """Solve every weight by its calibrator, with the activations quantized."""
    plan = calibrated.plan
    todo = {key: c for key, c in plan.items() if plan.sites[key].role is Role.WEIGHT and weights.is_open(c)}
    with context.watch.stage("weights"):
        problem = weights.problem(calibrated.folded.model, calibrated.folded.structure, plan, samples, config, context)
        solutions = weights.find(todo, problem)
    return with_weights(calibrated, solutions, config)


def with_weights(calibrated: Calibrated, solutions: Mapping[str, WeightSolution], config: RunConfig) -> Solved:
    """The plan with its weights, and the model with the changed ones."""
    folded = calibrated.folded
    plan = calibrated.plan.replace({key: one.choice for key, one in solutions.items()})
    moved = {key: one for key, one in solutions.items() if one.weight is not None or one.shift is not None}
    if not moved:
        return Solved(calibrated, folded.model, folded.structure, plan)
    model = weights.apply(folded.model, folded.structure, plan, moved)
    return Solved(calibrated, model, structure_of(model, config), plan, frozenset(moved))


def lower(solved: Solved, config: RunConfig) -> Lowered:
    """The quantized model in its format."""
    signed = {"signed": True} if config.target is not None and config.target.signed else {}
    return LOWER[config.format](solved.model, solved.structure, solved.plan, constants=config.constants, **signed)


def verify(prepared: Prepared, lowered: Lowered, samples: Samples, config: RunConfig) -> dict[str, Metrics]:
    """Metrics of the file's outputs against the original's, on samples of the report."""
    return compare.models(
        prepared.model.to_proto,
        lowered.proto,
        samples.report,
        artifact=True,
        names=(prepared.name, f"quantized {Path(prepared.name).name}"),
        cut=unpadded(prepared.model, prepared.structure.masks),
        threads=config.threads,
    )
