"""Weight calibrators: each solves a problem made of the weights to find and the known data of the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx

from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.edges import Edged
from onnxptq.calibration.progress import Progress
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.statistics.base import F32
from onnxptq.graph.model import Model
from onnxptq.ops.uniform import UniformParams
from onnxptq.options import Configurable
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Structure
from onnxptq.workers import HERE, Workers

REGISTRY: dict[str, WeightCalibrator] = {}


@dataclass(frozen=True)
class WeightProblem:
    """The weights that one calibrator has to find, and all data it may use. Activations have their parameters."""

    choices: Mapping[str, Choice]
    """The choices to complete, by site key."""
    plan: Plan
    model: Model
    structure: Structure
    samples: Source
    simulate: Callable[[], onnx.ModelProto]
    """Makes the model with its activations coded and decoded, and float weights; node names stay."""
    edged: Callable[[], Edged]
    """Makes the model with its activations quantized on edges, and float weights."""
    progress: Progress
    seed: int = 0
    threads: int | None = None
    memory_limit: int | None = None
    checkpoint: Checkpoint | None = None
    workers: Workers = HERE


@dataclass(frozen=True)
class WeightSolution:
    """The solution for one weight."""

    choice: Choice
    """The choice with its parameters."""
    weight: F32 | None = None
    """The values to be coded, in the layout of the graph; None: the model's own."""
    shift: F32 | None = None
    """Correction of the bias, one number an output channel."""


class WeightCalibrator(Configurable, ABC):
    """Finds weights. Defining a subclass registers it."""

    fallback: ClassVar[str] = "omse"
    """The calibrator of the weights for which ``solve`` returns nothing."""
    moves: ClassVar[bool] = True
    """True if solutions may differ from the model's weights, so that their distance is no error."""

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return
        if cls.name in REGISTRY:
            raise TypeError(
                f"two weight calibrators are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and "
                f"{cls.__module__}"
            )
        REGISTRY[cls.name] = cls()

    def require(self) -> None:
        """Raise an InputError, before any work, if something it needs is missing."""

    @abstractmethod
    def solve(self, problem: WeightProblem) -> Mapping[str, WeightSolution]:
        """Solutions by site key; weights that it does not handle are left out."""


class RoundingCalibrator(WeightCalibrator):
    """Finds each weight from its values alone. A subclass only defines ``params``."""

    moves = False

    @abstractmethod
    def params(self, weight: F32, choice: Choice, axis: int | None, threads: int | None) -> UniformParams:
        """The codes of one weight: one range for each index of ``axis``, or one for all where it is None."""

    def solve(self, problem: WeightProblem) -> Mapping[str, WeightSolution]:
        """Every weight."""
        found: dict[str, WeightSolution] = {}
        tensors = problem.model.graph.tensors()
        with problem.progress.task("weights", len(problem.choices)) as step:
            for key, choice in problem.choices.items():
                site = problem.plan.sites[key]
                weight = np.asarray(tensors[site.tensor].values, np.float32)
                axis = site.axis if choice.granularity == "channel" else None
                params = self.params(weight, choice, axis, problem.threads)
                found[key] = WeightSolution(replace(choice, params=params))
                step()
        return found
