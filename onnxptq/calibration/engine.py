"""Engine: walks over the samples, fills every requested statistic, and drives searches and passes in lock-step."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxptq.calibration import machine
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.coroutine import Coroutine, asked
from onnxptq.calibration.gradients import Gradients, Weights, subject
from onnxptq.calibration.jobs import Job, constant, jobs_of, not_finite, signature
from onnxptq.calibration.observers import Wire, can_observe, instrument, needed, wired
from onnxptq.calibration.progress import Advance, Progress, Silent
from onnxptq.calibration.sources.source import Sample, Source
from onnxptq.calibration.statistics.base import NotFinite, Request, Statistic
from onnxptq.errors import InputError, one_line
from onnxptq.graph.dataflow.tokens import token_axes
from onnxptq.graph.model import Model
from onnxptq.graph.reduce import with_shapes
from onnxptq.running import sessions as runtime

T = TypeVar("T")
_SHARE = 4
"""Share of the available memory that fetched tensors may take if no limit is set."""


@dataclass(frozen=True)
class Walk:
    """One walk over the samples, for the report."""

    stage: str
    seconds: float
    forwards: int
    """Number of forward passes (of the whole model or of its first part)."""
    tapped: int
    """Number of statistics computed inside the graph."""
    fetched: int
    """Number of statistics computed on fetched tensors."""


class Engine:
    """Fills statistics by running a model on samples.

    In-graph observers reduce tensors where the op library is available and the statistic offers one. Other tensors are
    fetched in groups of at most ``memory_limit`` bytes, with one forward pass per group. Samples are folded in order,
    so results do not depend on groups, threads or interruptions. ``gradients`` computes partners that are gradients;
    its memory is not counted in the limit.
    """

    def __init__(
        self,
        model: Model,
        source: Source,
        *,
        masks: Mapping[str, str] | None = None,
        memory_limit: int | None = None,
        threads: int | None = None,
        checkpoint: Checkpoint | None = None,
        progress: Progress | None = None,
        gradients: Gradients | None = None,
        observers: bool = True,
        first: int = 0,
    ) -> None:
        self.model = model
        self.source = source
        self.masks = dict(masks or {})
        self.walks: list[Walk] = []
        self._limit = memory_limit
        self._threads = threads
        self._checkpoint = checkpoint
        self._progress = progress or Silent()
        self.gradients = gradients
        self._observing = observers and runtime.library_path() is not None
        self._sized: dict[str, int] = {}
        self._count = first

    def fill(self, requests: Mapping[str, Request], *, stage: str, model: Model | None = None) -> dict[str, Statistic]:
        """Fill the statistics of the requests in at most one walk of ``model`` (by default the engine's)."""
        model = self.model if model is None else model
        jobs = jobs_of(requests, token_axes(model, self.masks) if self.masks else {})
        tensors, nodes = model.graph.tensors(), model.nodes()
        walking = [job for job in jobs if not constant(job, tensors.get(job.tensor), nodes.get(job.tensor))]
        if walking:
            self._walk(model, walking, stage)
        for job in jobs:
            job.answer()
        return {name: request.statistic for name, request in requests.items()}

    def drive(self, searches: Mapping[str, Generator[Request, Statistic, T]], *, stage: str) -> dict[str, T]:
        """Advance all searches in lock-step, one walk per round, and return their results."""
        running = {name: Coroutine(search) for name, search in searches.items()}
        number = 0
        while requests := asked(running):
            number += 1
            answers = self.fill(requests, stage=stage if number == 1 else f"{stage}, round {number}")
            for name, answer in answers.items():
                running[name].send(answer)
        return {name: one.result for name, one in running.items()}

    def _walk(self, model: Model, jobs: list[Job], stage: str) -> None:
        """Fold every sample into every job, in as many sessions as memory requires."""
        start, forwards, number, mark = time.monotonic(), 0, self._count, signature(jobs)
        self._count += 1
        state = self._checkpoint.load(number, mark) if self._checkpoint is not None else None
        if state is not None:
            for job, seen, arrays in zip(jobs, state.seen, state.arrays, strict=True):
                if seen:
                    job.statistic.load(arrays)
                job.seen = seen
        total = len(self.source)
        groups = list(self._groups(model, [job for job in jobs if job.seen < job.end(total)], total))
        with self._progress.task(stage, sum(group[0].end(total) - group[0].seen for group in groups)) as advance:
            for group in groups:
                forwards += group[0].end(total) - group[0].seen
                for _ in self._run(model, group, advance):
                    if self._checkpoint is not None and self._checkpoint.due():
                        self._save(number, mark, jobs)
        if self._checkpoint is not None and groups:
            self._save(number, mark, jobs)
        tapped = sum(self._observing and can_observe(job) for job in jobs)
        self.walks.append(Walk(stage, time.monotonic() - start, forwards, tapped, len(jobs) - tapped))

    def _save(self, number: int, mark: str, jobs: list[Job]) -> None:
        assert self._checkpoint is not None
        self._checkpoint.save(number, mark, [job.seen for job in jobs], [job.statistic.arrays() for job in jobs])

    def _groups(self, model: Model, jobs: list[Job], total: int) -> Iterator[list[Job]]:
        """Jobs that share a session, in graph order.

        They have the same progress and the same end, and fetch no more than the limit allows.
        """
        limit = self._limit if self._limit is not None else machine.available() // _SHARE
        position = {tensor.name: i for i, node in enumerate(model.graph.nodes) for tensor in node.outputs}
        for stretch in sorted({(job.seen, job.end(total)) for job in jobs}, reverse=True):
            level = [job for job in jobs if (job.seen, job.end(total)) == stretch]
            group = [job for job in level if not self._fetches(job)]
            fetched = [job for job in level if self._fetches(job)]
            names = list(dict.fromkeys(subject(name) for job in fetched for name in self._fetches(job)))
            sizes = self._sizes(model, names) if names else {}
            held: set[str] = set()
            for job in sorted(fetched, key=lambda j: max(position.get(subject(n), -1) for n in self._fetches(j))):
                wanted = held | set(self._fetches(job))
                if held and sum(sizes[subject(n)] for n in wanted) > limit:
                    yield group
                    group, wanted = [], set(self._fetches(job))
                group.append(job)
                held = wanted
            yield group

    def _fetches(self, job: Job) -> tuple[str, ...]:
        """The tensors of a job that have to be fetched."""
        return job.partners if self._observing and can_observe(job) else (job.tensor, *job.partners)

    def _sizes(self, model: Model, names: list[str]) -> dict[str, int]:
        """Bytes of tensors: from the inferred shapes, or measured on the first sample where those are open."""
        tensors = model.graph.tensors()
        shapes = {name: tensors[name].shape for name in names}
        known = {
            name: shape
            for name, shape in shapes.items()
            if shape is not None and all(isinstance(n, int) for n in shape)
        }
        self._sized |= {name: 4 * math.prod(shape) for name, shape in known.items()}
        missing = [name for name in names if name not in self._sized]
        if missing:
            session = self._session(model, partial(with_shapes, names=missing))
            sample = next(self.source.iterate(0))
            found = self._forward(session, sample, 0).values()
            self._sized |= {name: 4 * math.prod(shape.numpy()) for name, shape in zip(missing, found, strict=True)}
        return self._sized

    def _session(self, model: Model, changed: Callable[[onnx.ModelProto], onnx.ModelProto]) -> ort.InferenceSession:
        """A session of the model after ``changed`` has edited it."""
        try:
            return runtime.session(
                lambda: changed(model.to_proto()),
                executor=None if self._observing else "function",
                threads=self._threads,
            )
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"onnxruntime does not load the model, read as opset {model.opset}: {one_line(error)}"
            ) from error

    @staticmethod
    def _feed(session: ort.InferenceSession, sample: Sample) -> dict[str, NDArray[Any]]:
        return {i.name: sample[i.name] for i in session.get_inputs()}

    def _run(self, model: Model, group: list[Job], advance: Advance) -> Iterator[None]:
        """Fold the remaining samples into a group of jobs; yield after each."""
        wires = wired(group, observers=self._observing)
        runs = needed(wires, {tensor.name for tensor in model.graph.inputs})
        session = self._session(model, partial(instrument, wires=wires)) if runs else None
        first = group[0].seen
        weights = Weights(self.gradients, model, [name for wire in wires for name in wire.outputs])
        for index, sample in enumerate(
            itertools.islice(self.source.iterate(first), group[0].end(len(self.source)) - first), start=first
        ):
            values = self._forward(session, sample, index) if session is not None else {}
            self._fold(wires, values, {**sample, **weights(sample, index)}, index)
            advance()
            yield
        if first == 0:
            weights.check()

    def _forward(self, session: ort.InferenceSession, sample: Sample, index: int) -> dict[str, Any]:
        outputs = [output.name for output in session.get_outputs()]
        feed = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in self._feed(session, sample).items()}
        try:
            return dict(zip(outputs, session.run_with_ort_values(outputs, feed), strict=True))
        except Exception as error:
            raise InputError(
                f"calibration {self.source.label(index)}: onnxruntime cannot run it: {one_line(error)}"
            ) from error

    def _fold(self, wires: list[Wire], values: dict[str, Any], sample: Sample, index: int) -> None:
        """Fold one sample's outputs in; each fetched tensor is copied, used and released."""
        readers = Counter(name for wire in wires for name in wire.outputs)
        arrays: dict[str, NDArray[Any]] = {}
        for wire in wires:
            for name in wire.outputs:
                if name not in arrays:
                    arrays[name] = sample[name] if name in sample else values.pop(name).numpy()
            try:
                wire.fold([arrays[name] for name in wire.outputs], sample)
            except NotFinite:
                raise not_finite(wire.job, self.source.label(index)) from None
            wire.job.seen = index + 1
            readers.subtract(wire.outputs)
            for name in wire.outputs:
                if not readers[name]:
                    arrays.pop(name, None)
