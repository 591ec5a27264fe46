"""unbiased: weights of grouped convolutions, rounded as by omse, and a bias that corrects the means of outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import numpy as np

from onnxptq.calibration.engine import Engine
from onnxptq.calibration.statistics.base import F32, F64, Request
from onnxptq.calibration.statistics.ranges import Moments
from onnxptq.calibrators.rounded_weights import OmseWeights
from onnxptq.calibrators.weight_base import WeightCalibrator, WeightProblem, WeightSolution
from onnxptq.graph.model import value
from onnxptq.ops import schemes


class UnbiasedWeights(WeightCalibrator):
    """The change of a weight times the mean of its input is the mean error of the output; the bias subtracts it. At the
    border of an image, where a kernel reads zeros, the mean error is smaller."""

    name = "unbiased"

    def solve(self, problem: WeightProblem) -> Mapping[str, WeightSolution]:
        """Solve grouped convolutions; leave the others to the fallback."""
        convs = {key: problem.structure.convs.get(problem.plan.sites[key].consumer) for key in problem.choices}
        nodes = problem.model.nodes()
        grouped = {
            key: conv
            for key, conv in convs.items()
            if conv is not None and not conv.transpose and int(nodes[conv.name].attrs.get("group", 1)) > 1
        }
        if not grouped:
            return {}
        wanted = {key: replace(problem.choices[key], calibrator=OmseWeights.name, options={}) for key in grouped}
        rounded = OmseWeights().solve(replace(problem, choices=wanted))
        engine = Engine(
            problem.model,
            problem.samples,
            masks=problem.structure.masks,
            memory_limit=problem.memory_limit,
            threads=problem.threads,
            progress=problem.progress,
        )
        filled = engine.fill(
            {key: Request(conv.input, Moments(axis=1)) for key, conv in grouped.items()}, stage="means of inputs"
        )
        return {
            key: replace(
                rounded[key],
                choice=replace(rounded[key].choice, calibrator=self.name),
                shift=_shift(
                    np.asarray(value(nodes[conv.name].inputs[1]), np.float32),
                    rounded[key],
                    cast(Moments, filled[key]).mean,
                ),
            )
            for key, conv in grouped.items()
        }


def _shift(weight: F32, rounded: WeightSolution, means: F64) -> F32:
    """Mean error of each output."""
    assert rounded.choice.params is not None
    change = schemes()["uniform"].fake(weight, rounded.choice.params).astype(np.float64) - weight
    change = change.reshape(*weight.shape[:2], -1).sum(axis=2)
    groups = len(means) // weight.shape[1]
    read = np.repeat(means.reshape(groups, -1), len(weight) // groups, axis=0)
    return np.asarray(-(change * read).sum(axis=1), np.float32)
