"""adaround, brecq, qdrop: weights, and scales of activations, learned against the original model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from onnxptq import learn
from onnxptq.calibrators.weight_base import REGISTRY, WeightCalibrator, WeightProblem, WeightSolution
from onnxptq.errors import InputError
from onnxptq.ops.uniform import UniformParams
from onnxptq.plan import Choice
from onnxptq.structure import Role

if TYPE_CHECKING:
    from onnxptq.learn.learner import Activation, Layer


@dataclass(frozen=True)
class Options:
    """How a unit is learned. The defaults are QDrop's, which PTQ4SAM shares."""

    iterations: int = 20000
    """Iterations of each unit."""
    lr: float = 1e-3
    """Learning rate of the rounding."""
    scale_lr: float = 4e-5
    """Learning rate of the scales of activations; 0 leaves them as found."""
    drop: float = 0.5
    """Share of the elements of inputs and activations that stay float in an iteration."""
    regulariser: float = 0.01
    """Weight of the term that drives each rounding to 0 or 1."""
    normalised: bool = False
    """Whether the loss is divided by the mean square of the unit's output."""
    batch: int = 1
    """Samples an iteration."""
    device: str = "cpu"
    """Where torch runs: cpu or cuda."""


DEFAULTS = {f.name: f.default for f in fields(Options)}


class Learned(WeightCalibrator):
    """Learns the rounding of weights unit by unit, from the grid of ``omse``. Subclasses differ in unit and options."""

    blocks: ClassVar[bool] = True
    joint: ClassVar[bool] = True
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"device": ("cpu", "cuda")}
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        "iterations": (1, 10**7),
        "lr": (0, 10),
        "scale_lr": (0, 10),
        "drop": (0, 1),
        "regulariser": (0, 1e6),
        "batch": (1, 10**4),
    }

    def require(self) -> None:
        """Torch."""
        if not learn.available():
            raise InputError(f"calibrator {self.name}: torch is not installed; pip install 'onnxptq[learn]'")

    def solve(self, problem: WeightProblem) -> Mapping[str, WeightSolution]:
        """All weights with a grid for each tensor or channel; the grids of others are found by the fallback alone."""
        grids = REGISTRY[self.fallback].solve(replace(problem, choices=_by_fallback(problem.choices, self.fallback)))
        layers: dict[str, Layer] = {}
        for key, solution in grids.items():
            layer = _layer(problem, key, solution.choice)
            if layer is not None:
                layers[key] = layer
        return self._learned(problem, grids, layers) if layers else {}

    def _learned(
        self, problem: WeightProblem, grids: Mapping[str, WeightSolution], layers: Mapping[str, Layer]
    ) -> dict[str, WeightSolution]:
        from onnxptq.learn.learner import Settings
        from onnxptq.learn.reconstruct import Reconstruction

        chosen = Options(**self.settings(next(iter(problem.choices.values())).options))
        work = Reconstruction(
            problem.model.to_proto(),
            problem.edged().proto,
            list(layers.values()),
            _activations(problem),
            Settings(
                blocks=self.blocks,
                joint=self.joint,
                iterations=chosen.iterations,
                lr=chosen.lr,
                scale_lr=chosen.scale_lr,
                drop=chosen.drop,
                weight=chosen.regulariser,
                normalised=chosen.normalised,
                batch=chosen.batch,
            ),
            seed=problem.seed,
            device=chosen.device,
        )
        found = work.run(
            problem.samples,
            threads=problem.threads,
            memory_limit=problem.memory_limit,
            checkpoint=problem.checkpoint,
            progress=problem.progress,
        )
        keys = {layer.node: key for key, layer in layers.items()}
        solved: dict[str, WeightSolution] = {}
        for unit in found.values():
            for node, weight in unit.weights.items():
                key = keys[node]
                solved[key] = WeightSolution(replace(problem.choices[key], params=grids[key].choice.params), weight)
            for key, scale in unit.scales.items():
                choice = problem.plan[key]
                assert isinstance(choice.params, UniformParams)
                params = replace(choice.params, scale=np.full_like(choice.params.scale, scale))
                solved[key] = WeightSolution(replace(choice, params=params))
        return solved


class AdaRound(Learned):
    """Layer by layer; reads the quantized layers before it, and learns no scales."""

    name = "adaround"
    blocks = False
    options: ClassVar[Mapping[str, Any]] = DEFAULTS | {"drop": 0.0, "scale_lr": 0.0}


class Brecq(Learned):
    """Block by block: the rounding with float activations, then the scales of activations."""

    name = "brecq"
    joint = False
    options: ClassVar[Mapping[str, Any]] = {f.name: f.default for f in fields(Options)} | {
        "drop": 0.0,
        "scale_lr": 4e-4,
    }


class QDrop(Learned):
    """Block by block, rounding and scales together, with parts of inputs and activations left float at random."""

    name = "qdrop"
    options: ClassVar[Mapping[str, Any]] = DEFAULTS


def _by_fallback(choices: Mapping[str, Choice], name: str) -> dict[str, Choice]:
    return {key: replace(choice, calibrator=name, options={}, params=None) for key, choice in choices.items()}


def _layer(problem: WeightProblem, key: str, choice: Choice) -> Layer | None:
    """The layer of a weight; None if several layers share it or its grid has one range for each block of channels."""
    from onnxptq.learn.learner import Layer

    site, params = problem.plan.sites[key], choice.params
    assert isinstance(params, UniformParams)
    shared = sum(one.tensor == site.tensor and one.role is Role.WEIGHT for one in problem.structure.sites) > 1
    if shared or choice.granularity == "block":
        return None
    layer = problem.structure.linears.get(site.consumer) or problem.structure.convs[site.consumer]
    values = np.asarray(problem.model.tensor(site.tensor).values, np.float32)
    return Layer(site.consumer, site.tensor, layer.output, values, params.scale, params.zero, params.bits)


def _activations(problem: WeightProblem) -> dict[str, Activation]:
    from onnxptq.learn.learner import Activation

    sites, edges = problem.plan.sites, problem.edged().edges
    return {key: Activation(edge, sites[key].consumer, problem.plan[key].params) for key, edge in edges.items()}
