"""A weight calibrator is given a problem - the weights to find and what is known of the model - and solves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx

from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.progress import Progress
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.statistics.base import F32
from onnxptq.graph.model import Model
from onnxptq.ops.uniform import UniformParams
from onnxptq.options import Configurable
from onnxptq.plan import Choice, Plan
from onnxptq.structure import Structure

REGISTRY: dict[str, WeightCalibrator] = {}


@dataclass(frozen=True)
class WeightProblem:
    """The weights that one calibrator has to find, and everything it may use. Activations have their parameters."""

    choices: Mapping[str, Choice]
    """What is wanted, by site key."""
    plan: Plan
    model: Model
    structure: Structure
    samples: Source
    simulate: Callable[[], onnx.ModelProto]
    """Makes the model with its activations coded and decoded, and float weights; node names stay."""
    progress: Progress
    threads: int | None = None
    memory_limit: int | None = None
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class WeightSolution:
    """One weight as it was found."""

    choice: Choice
    """With its parameters."""
    weight: F32 | None = None
    """The values to be coded, in the layout of the graph; None: those the model has."""
    shift: F32 | None = None
    """What is added to the bias, one number an output channel."""


class WeightCalibrator(Configurable, ABC):
    """How weights are found. Subclasses are registered by being defined."""

    fallback: ClassVar[str] = "omse"
    """The calibrator of the weights for which ``solve`` returns nothing."""
    moves: ClassVar[bool] = True
    """Whether solutions may be other weights than the model's, so that the distance from these says nothing."""

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

    @abstractmethod
    def solve(self, problem: WeightProblem) -> Mapping[str, WeightSolution]:
        """Solutions by site key; weights it is not made for are left out."""


class RoundingCalibrator(WeightCalibrator):
    """Weights found one by one from their values alone. A subclass only says which codes a weight gets."""

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
