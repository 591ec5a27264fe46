"""Tasks, and the evaluation of several models side by side in one pass over the samples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxptq.errors import InputError
from onnxptq.evaluate.overlap import Agreement
from onnxptq.evaluate.predictors import Masks
from onnxptq.workers import HERE, Team, Workers

Array = NDArray[Any]
S = TypeVar("S")


class Scorer(Protocol[S]):  # type: ignore[misc]
    """Collects one model's predictions."""

    def add(self, sample: S, found: Masks) -> None:
        """Count one sample."""
        ...

    def summary(self) -> dict[str, float]:
        """The task's figures so far; percentages, and counts."""
        ...


@dataclass(frozen=True)
class View:
    """The picture of a sample: pixels uint8 [H, W, 3], true masks bool [n, H, W], and a caption."""

    image: Array
    truth: Array
    caption: str = ""


class Task(ABC, Generic[S]):
    """Samples, the prediction for each, and the scoring of predictions."""

    name: ClassVar[str]
    main: ClassVar[str]
    """The figure that tables compare first."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of samples."""

    @abstractmethod
    def sample(self, index: int) -> S:
        """One sample."""

    @abstractmethod
    def predict(self, predictor: Any, sample: S) -> Masks:
        """One model's masks."""

    @abstractmethod
    def scorer(self) -> Scorer[S]:
        """A fresh one."""

    @abstractmethod
    def view(self, sample: S) -> View:
        """For pictures."""


@dataclass
class Row:
    """One model's figures."""

    model: str
    figures: dict[str, float]
    agreement: float | None = None
    """Mean IoU with the first model's predictions, percent; None for the first model itself."""


@dataclass
class Evaluation:
    """The figures of every model, first model first."""

    task: str
    samples: int
    rows: list[Row] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        rows = [
            {"model": r.model, **r.figures, **({} if r.agreement is None else {"agreement": r.agreement})}
            for r in self.rows
        ]
        return {"task": self.task, "samples": self.samples, "models": rows}


Watcher = Callable[[int, int], None]
"""Called with the number of finished samples, and of all."""

Painter = Callable[[int, View, Mapping[str, Masks]], None]
"""Called with every sample and each model's masks."""


def evaluate_task(
    task: Task[S],
    models: Mapping[str, Any],
    *,
    limit: int | None = None,
    watch: Watcher | None = None,
    paint: Painter | None = None,
    workers: Workers = HERE,
) -> Evaluation:
    """Score every model (name to predictor) on the first ``limit`` samples; the first is the reference of the
    agreement. Workers predict; all scores are kept here."""
    total = len(task) if limit is None else min(limit, len(task))
    if total < 1:
        raise InputError(f"{task.name}: no samples to evaluate")
    scorers = {name: task.scorer() for name in models}
    reference = next(iter(models))
    agreements = {name: Agreement() for name in models if name != reference}
    with Team(workers, partial(Predictions, task, models), most=total) as team:
        for index, (sample, found) in enumerate(team.ask("predict", range(total))):
            for name, masks in found.items():
                scorers[name].add(sample, masks)
                if name != reference:
                    agreements[name].add(found[reference].masks, masks.masks)
            if paint is not None:
                paint(index, task.view(sample), found)
            if watch is not None:
                watch(index + 1, total)
    rows = [
        Row(name, scorers[name].summary(), agreements[name].percent if name in agreements else None) for name in models
    ]
    return Evaluation(task.name, total, rows)


class Predictions(Generic[S]):
    """Every model's masks, sample by sample. Workers hold one each."""

    def __init__(self, task: Task[S], models: Mapping[str, Any]) -> None:
        self._task, self._models = task, models

    def predict(self, indices: range) -> Iterator[tuple[S, dict[str, Masks]]]:
        """The samples themselves, and all models' masks."""
        for index in indices:
            sample = self._task.sample(index)
            yield sample, {name: self._task.predict(model, sample) for name, model in self._models.items()}


def stacked(masks: list[Array], height: int, width: int) -> Array:
    """Masks stacked to [n, H, W], also for n = 0."""
    return np.stack(masks) if masks else np.zeros((0, height, width), np.bool_)
