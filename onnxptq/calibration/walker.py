"""Walker: runs a model on samples and folds each into a group of jobs. Workers hold one each."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from onnxptq.calibration.gradients import Weights
from onnxptq.calibration.jobs import Job, not_finite
from onnxptq.calibration.observers import Wire
from onnxptq.calibration.sources.source import Sample, Source
from onnxptq.calibration.statistics.base import NotFinite, Statistic
from onnxptq.errors import InputError, one_line
from onnxptq.running import sessions as runtime
from onnxptq.running.sessions import Executor, ModelLike


@dataclass(frozen=True)
class Share:
    """What one sample adds."""

    statistics: Sequence[Statistic] = ()
    """One a job, of this sample alone; none if it is in the jobs already."""
    live: frozenset[str] = frozenset()
    """Names of gradients that are not zero."""
    notes: tuple[str, ...] = ()
    """Remarks of the source."""


class Walker:
    """A session of the instrumented model, and the jobs that its outputs are folded into."""

    def __init__(
        self,
        model: ModelLike | None,
        wires: Sequence[Wire],
        source: Source,
        gradients: Callable[[], Weights],
        *,
        executor: Executor | None,
        threads: int | None,
        opset: int,
    ) -> None:
        """``model`` is None if samples and gradients suffice."""
        self._session = session(model, executor=executor, threads=threads, opset=opset) if model is not None else None
        self._wires, self._source, self._gradients = wires, source, gradients()

    def fold(self, indices: range) -> Iterator[Share]:
        """Fold samples into the jobs themselves."""
        for index, sample in self._source.chosen(indices):
            yield Share(live=self._fold(index, sample))

    def shares(self, indices: range) -> Iterator[Share]:
        """The statistics of each sample alone."""
        empty = [wire.job.statistic for wire in self._wires]
        for index, sample in self._source.chosen(indices):
            for wire, statistic in zip(self._wires, copy.deepcopy(empty), strict=True):
                wire.job.statistic = statistic
            live = self._fold(index, sample)
            yield Share([wire.job.statistic for wire in self._wires], live, tuple(self._source.notes))

    def _fold(self, index: int, sample: Sample) -> frozenset[str]:
        """Fold one sample's outputs in; each fetched tensor is copied, used and released."""
        label = self._source.label(index)
        values = forward(self._session, sample, label) if self._session is not None else {}
        gradients = self._gradients(sample, index)
        sample = {**sample, **gradients}
        readers = Counter(name for wire in self._wires for name in wire.outputs)
        arrays: dict[str, NDArray[Any]] = {}
        for wire in self._wires:
            for name in wire.outputs:
                if name not in arrays:
                    arrays[name] = sample[name] if name in sample else values.pop(name).numpy()
            try:
                wire.fold([arrays[name] for name in wire.outputs], sample)
            except NotFinite:
                raise not_finite(wire.job, label) from None
            readers.subtract(wire.outputs)
            for name in wire.outputs:
                if not readers[name]:
                    arrays.pop(name, None)
        return frozenset(name for name, gradient in gradients.items() if gradient.any())


def session(model: ModelLike, *, executor: Executor | None, threads: int | None, opset: int) -> ort.InferenceSession:
    """A session, or a line about why onnxruntime refuses the user's model."""
    try:
        return runtime.session(model, executor=executor, threads=threads)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"onnxruntime does not load the model, read as opset {opset}: {one_line(error)}") from error


def forward(opened: ort.InferenceSession, sample: Mapping[str, NDArray[Any]], label: str) -> dict[str, Any]:
    """All outputs for one sample, inside the runtime."""
    outputs = [output.name for output in opened.get_outputs()]
    feed = {i.name: ort.OrtValue.ortvalue_from_numpy(sample[i.name]) for i in opened.get_inputs()}
    try:
        return dict(zip(outputs, opened.run_with_ort_values(outputs, feed), strict=True))
    except Exception as error:
        raise InputError(f"calibration {label}: onnxruntime cannot run it: {one_line(error)}") from error


def emptied(jobs: Sequence[Job]) -> list[Job]:
    """The same jobs for other processes, before anything is folded in or loaded."""
    return [replace(job, statistic=copy.deepcopy(job.statistic), twins=[]) for job in jobs]
