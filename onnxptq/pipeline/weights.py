"""Pose problems for the weight calibrators, and apply their solutions to a copy of the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import onnx
import onnx_graphsurgeon as gs

from onnxptq.calibration.sources.split import Samples
from onnxptq.calibrators import weight_calibrators
from onnxptq.calibrators.weight_base import WeightProblem, WeightSolution
from onnxptq.graph.edit import set_constant
from onnxptq.graph.model import Model, value
from onnxptq.lower import native
from onnxptq.lower.edges import with_edges
from onnxptq.passes.linears import shift_output
from onnxptq.pipeline.config import RunConfig, RunContext
from onnxptq.plan import Choice, Plan
from onnxptq.recipe import Recipe
from onnxptq.structure import Role, Structure


def require(recipe: Recipe) -> None:
    """Raise an InputError if something that a weight calibrator of the recipe needs is missing."""
    known = weight_calibrators()
    for name in dict.fromkeys(rule.changes.get("calibrator") for rule in recipe.rules):
        if name in known:
            known[name].require()


def problem(
    model: Model, structure: Structure, plan: Plan, samples: Samples, config: RunConfig, context: RunContext
) -> WeightProblem:
    """The problem for weight calibrators, without the weights themselves."""
    return WeightProblem(
        {},
        plan,
        model,
        structure,
        samples.calibration,
        simulate=lambda: simulation(model, structure, plan),
        edged=lambda: with_edges(model, structure, activations(plan)),
        progress=context.progress,
        seed=config.seed,
        threads=config.threads,
        memory_limit=config.memory_limit,
        checkpoint=context.checkpoint,
        workers=context.workers,
    )


def find(choices: Mapping[str, Choice], problem: WeightProblem) -> dict[str, WeightSolution]:
    """Solutions for ``choices``, each by its calibrator, or by the calibrator's fallback for weights that it omits."""
    found: dict[str, WeightSolution] = {}
    for name, wanted in _by_calibrator(choices):
        solutions = weight_calibrators()[name].solve(replace(problem, choices=wanted))
        found |= solutions
        left = {key: choice for key, choice in wanted.items() if key not in solutions}
        found |= find(fallback(left), problem) if left else {}
    return found


def is_open(choice: Choice) -> bool:
    """Whether a weight is still unsolved. Parameters do not suffice if its calibrator changes the weight."""
    one = weight_calibrators().get(choice.calibrator)
    return choice.params is None or (one is not None and one.moves)


def fallback(choices: Mapping[str, Choice]) -> dict[str, Choice]:
    """The same weights with the fallback of their calibrator."""
    known = weight_calibrators()
    return {
        key: replace(choice, calibrator=known[choice.calibrator].fallback, options={}, params=None)
        for key, choice in choices.items()
    }


def _by_calibrator(choices: Mapping[str, Choice]) -> Iterator[tuple[str, dict[str, Choice]]]:
    for name in dict.fromkeys(choice.calibrator for choice in choices.values()):
        yield name, {key: choice for key, choice in choices.items() if choice.calibrator == name}


def simulation(model: Model, structure: Structure, plan: Plan) -> onnx.ModelProto:
    """The model with simulated quantization of its activations, and float weights."""
    return native.with_ops(model, structure, activations(plan), constants="fp32").proto


def activations(plan: Plan) -> Plan:
    """The part of a plan without weights."""
    return Plan({plan.sites[key]: choice for key, choice in plan.items() if plan.sites[key].role is not Role.WEIGHT})


def apply(model: Model, structure: Structure, plan: Plan, solutions: Mapping[str, WeightSolution]) -> Model:
    """A copy of the model with the weights that calibrators changed and the biases that they corrected."""
    changed = model.copy()
    nodes = changed.nodes()
    for key, one in solutions.items():
        name = plan.sites[key].consumer
        node = nodes[name]
        if one.weight is not None:
            set_constant(changed, node, 1, one.weight)
        if one.shift is None:
            continue
        if name in structure.linears:
            shift_output(changed, structure.linears[name], one.shift)
        elif len(node.inputs) > 2 and (held := value(node.inputs[2])) is not None:
            set_constant(changed, node, 2, held + one.shift)
        else:
            node.inputs.append(gs.Constant(changed.unique(f"{name}_bias"), one.shift))
    return changed
