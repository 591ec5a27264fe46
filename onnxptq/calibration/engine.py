"""Engine: walks over the samples, fills every requested statistic, and drives searches and passes in lock-step."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import onnx

from onnxptq import machine
from onnxptq.calibration.checkpoint import Checkpoint
from onnxptq.calibration.coroutine import Coroutine, asked
from onnxptq.calibration.gradients import Gradients, Weights, is_gradient, require_live, subject
from onnxptq.calibration.jobs import Job, constant, jobs_of, signature
from onnxptq.calibration.observers import Wire, can_observe, instrument, needed, wired
from onnxptq.calibration.progress import Advance, Progress, Silent
from onnxptq.calibration.sources.source import Source
from onnxptq.calibration.statistics.base import Request, Statistic
from onnxptq.calibration.walker import Walker, emptied, forward, session
from onnxptq.graph.dataflow.tokens import token_axes
from onnxptq.graph.model import Model
from onnxptq.graph.reduce import with_shapes
from onnxptq.graph.sent import Sent
from onnxptq.running import sessions as runtime
from onnxptq.workers import HERE, Team, Workers

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
    so results do not depend on groups, threads, workers or interruptions. ``gradients`` computes partners that are
    gradients; its memory is not counted in the limit.
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
        workers: Workers = HERE,
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
        self._workers = workers
        self._observing = observers and runtime.library_path() is not None
        self._executor: runtime.Executor | None = None if self._observing else "function"
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
        empty = dict(zip(map(id, jobs), emptied(jobs), strict=True)) if self._workers.remote else {}
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
                for _ in self._run(model, group, [empty.get(id(job), job) for job in group], advance):
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
        limit = self._limit if self._limit is not None else machine.available() // _SHARE // self._workers.count
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
            opened = session(
                lambda: with_shapes(model.to_proto(), names=missing),
                executor=self._executor,
                threads=self._threads,
                opset=model.opset,
            )
            found = forward(opened, next(self.source.iterate(0)), self.source.label(0)).values()
            self._sized |= {name: 4 * math.prod(shape.numpy()) for name, shape in zip(missing, found, strict=True)}
        return self._sized

    def _run(self, model: Model, group: list[Job], folded: list[Job], advance: Advance) -> Iterator[None]:
        """Fold the remaining samples into a group of jobs; yield after each. Workers fold them into ``folded``."""
        remote = self._workers.remote
        wires = wired(folded, observers=self._observing)
        names = [name for wire in wires for name in wire.outputs]
        runs = needed(wires, {tensor.name for tensor in model.graph.inputs})
        first, end = group[0].seen, group[0].end(len(self.source))
        make = partial(
            Walker,
            Sent(partial(_instrumented, model, wires)) if runs else None,
            wires,
            self.source,
            partial(Weights, self.gradients, model if any(map(is_gradient, names)) else None, names),
            executor=self._executor,
            threads=self._workers.threads(self._threads),
            opset=model.opset,
        )
        live: set[str] = set()
        with Team(self._workers, make, most=end - first) as team:
            for index, share in enumerate(team.ask("shares" if remote else "fold", range(first, end)), start=first):
                for job, statistic in zip(group, share.statistics, strict=remote):
                    job.statistic.load(job.statistic.merge(statistic).arrays())
                for job in group:
                    job.seen = index + 1
                live |= share.live
                self.source.notes.extend(note for note in share.notes if note not in self.source.notes)
                advance()
                yield
        if first == 0:
            require_live(names, live)


def _instrumented(model: Model, wires: Sequence[Wire]) -> onnx.ModelProto:
    return instrument(model.to_proto(), wires)
