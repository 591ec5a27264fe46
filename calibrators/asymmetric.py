"""asymmetric: closed-form weights by asymmetric calibration of the whole graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, ClassVar

import numpy as np

from onnxptq.calibrators.search.carrier import Target
from onnxptq.calibrators.search.refit import Refit, Settings
from onnxptq.calibrators.search.two_streams import TwoStreams
from onnxptq.calibrators.weight_base import WeightCalibrator, WeightProblem, WeightSolution
from onnxptq.graph.dataflow.tokens import token_axes
from onnxptq.graph.model import Model, value
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice
from onnxptq.structure import Structure

LARGEST = 5120
"""Most inputs of a weight that is solved for: the matrices have this size squared."""


class AsymmetricWeights(WeightCalibrator):
    """Each weight in closed form from its inputs in the original and in the quantized graph."""

    name = "asymmetric"
    options: ClassVar[Mapping[str, Any]] = {f.name: f.default for f in fields(Settings)}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {"damp": (0, 1e6), "damp_few": (0, 1e6), "rows": (0, 10**6)}
    fallback = "unbiased"

    def solve(self, problem: WeightProblem) -> Mapping[str, WeightSolution]:
        """Solve linears and plain convolutions with one range a channel; leave the others to the fallback."""
        targets: dict[str, Target] = {}
        for key, choice in problem.choices.items():
            target = _target(problem.model, problem.structure, problem.plan.sites[key].consumer, choice)
            if target is not None:
                targets[key] = target
        if not targets:
            return {}
        masks = problem.structure.masks
        walk = TwoStreams(
            problem.model.to_proto(),
            problem.simulate(),
            list(targets.values()),
            problem.samples,
            paddings=token_axes(problem.model, masks) if masks else {},
            memory_limit=problem.memory_limit,
            threads=problem.threads,
            checkpoint=problem.checkpoint,
            progress=problem.progress,
            workers=problem.workers,
        )
        refits = walk.run()
        return {
            key: _solution(problem.choices[key], target, refits[target.name], problem.plan.sites[key].axis)
            for key, target in targets.items()
        }


def _target(model: Model, structure: Structure, name: str, choice: Choice) -> Target | None:
    """The description of a node for the solver, or None if the solver does not handle it."""
    settings, node = Settings(**AsymmetricWeights().settings(choice.options)), model.nodes()[name]
    weight = np.asarray(value(node.inputs[1]), np.float32)
    if choice.granularity != "channel":
        return None
    if name in structure.linears:
        return (
            Target(name, node.inputs[0].name, weight, choice.bits, choice.symmetric, None, settings)
            if weight.shape[0] <= LARGEST
            else None
        )
    window = structure.convs[name].window
    if window is None or weight[0].size > LARGEST:
        return None
    matrix = np.ascontiguousarray(weight.reshape(len(weight), -1).T)
    return Target(name, node.inputs[0].name, matrix, choice.bits, choice.symmetric, window, settings)


def _solution(choice: Choice, target: Target, refit: Refit, axis: int) -> WeightSolution:
    shape = [1] * (2 if target.window is None else 2 + len(target.window.shape))
    shape[axis] = -1
    params = UniformParams(choice.bits, refit.scale.reshape(shape), refit.zero.reshape(shape))
    return WeightSolution(replace(choice, params=params), target.kernel(refit.weight), refit.shift)
