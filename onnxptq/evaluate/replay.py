"""Predictions kept on disk, so that the reference of a comparison runs once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from onnxptq.evaluate.predictors import Masks
from onnxptq.evaluate.task import Task
from onnxptq.files import reading


class Replay(Task[Any]):
    """A task that runs its reference predictor once for every sample and stores the masks; others always run."""

    def __init__(self, task: Task[Any], folder: Path) -> None:
        """Masks of the predictor named `reference` are stored in ``folder``, packed to a bit a pixel."""
        self._task, self._folder = task, folder
        self.name, self.main = task.name, task.main  # type: ignore[misc]
        self._index = -1

    def __len__(self) -> int:
        return len(self._task)

    def sample(self, index: int) -> Any:
        """The task's own."""
        self._index = index
        return self._task.sample(index)

    def predict(self, predictor: Any, sample: Any) -> Masks:
        """The stored masks if ``predictor`` is `Remembered`."""
        if not isinstance(predictor, Remembered):
            return self._task.predict(predictor, sample)
        file = self._folder / f"{self._index}.npz"
        if file.exists():
            with reading(file, "is no answer of the reference; remove it"), np.load(file) as held:
                shape = tuple(held["shape"])
                bits = np.unpackbits(held["masks"], count=int(np.prod(shape)))
                return Masks(bits.astype(np.bool_).reshape(shape), held["scores"])
        found = self._task.predict(predictor.predictor(), sample)
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(".tmp.npz")
        np.savez(temporary, masks=np.packbits(found.masks), shape=np.array(found.masks.shape), scores=found.scores)
        temporary.rename(file)
        return found

    def scorer(self) -> Any:
        """The task's own."""
        return self._task.scorer()

    def view(self, sample: Any) -> Any:
        """The task's own."""
        return self._task.view(sample)


class Remembered:
    """A predictor that is only opened if some masks are not stored yet."""

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start, self._predictor = start, None

    def predictor(self) -> Any:
        """The predictor, opened."""
        if self._predictor is None:
            self._predictor = self._start()
        return self._predictor
