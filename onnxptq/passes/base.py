"""The Pass interface, and how passes run: statistics first, then the change, then the proof that outputs stayed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from onnxptq.calibration.coroutine import Coroutine, asked
from onnxptq.calibration.statistics.base import Request, Statistic
from onnxptq.errors import InputError, nearest
from onnxptq.graph.model import Model
from onnxptq.options import checked
from onnxptq.passes.proof import Outputs, prove
from onnxptq.structure import Structure

REGISTRY: dict[str, Pass] = {}
Asking = Generator[Mapping[str, Request], Mapping[str, Statistic], list["Change"]]
Discover = Callable[[Model], Structure]
Fill = Callable[[Model, Mapping[str, Request], str], Mapping[str, Statistic]]
"""One walk over the samples with the current model: (model, requests, stage name) -> filled statistics.

No name comes twice.
"""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Change:
    """One change by a pass, or (``done`` False) the reason why it left a place alone; for the report."""

    pass_name: str
    where: str
    what: str
    done: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)
    """Numbers and lists that led to the decision, for plots."""


@dataclass(frozen=True)
class Passed:
    """Changes by the passes, the structure of the current model, and the drift of each output."""

    changes: tuple[Change, ...]
    structure: Structure
    drift: Mapping[str, float] = field(default_factory=dict)
    """Output name -> signal to difference, dB (inf: equal to the last bit). Empty if no pass changed anything."""
    warnings: tuple[str, ...] = ()
    """Passes omitted because their proof failed."""


class Pass(ABC):
    """An equivalence pass. Subclasses are registered by being defined.

    ``run`` changes the model in place and returns its changes ([] for none). A pass that needs statistics is a
    generator: it yields requests (name -> tensor, empty statistic) and receives the filled statistics. It changes
    nothing before its first request, and reads weights and biases only after the answer.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    """Option names with defaults; set by recipes and ``--set``."""
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Allowed values of options, where they can be listed."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Lowest and highest value of numeric options."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Kinds of tensors it requests statistics of: ``query``, ``key``, ``value``, ``norm`` (a norm's output)."""
    moves: ClassVar[frozenset[str]] = frozenset()
    """Kinds of tensors whose values it changes.

    Passes share a walk over the samples if none reads a kind that an earlier one changes.
    """
    restructures: ClassVar[bool] = False
    """Whether it may remove nodes that the structure names."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name in REGISTRY:
            raise TypeError(
                f"two passes are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and {cls.__module__}"
            )
        REGISTRY[cls.name] = cls()

    @abstractmethod
    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking | list[Change]:
        """Change ``model``; see the class. ``options`` holds every option."""

    def left(self, where: str, why: str) -> Change:
        """The entry for a place left alone."""
        return Change(self.name, where, f"left alone: {why}", done=False)

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options, defaults filled in; an InputError for a wrong one."""
        return checked(f"pass {self.name!r}", given, self.options, choices=self.choices, limits=self.limits)


def run_passes(
    model: Model,
    chosen: Mapping[str, Mapping[str, Any]],
    *,
    discover: Discover,
    fill: Fill,
    outputs: Outputs,
    tolerance: float = TOLERANCE,
) -> Passed:
    """Run the passes ``chosen`` (name -> options, in order) on ``model``, in place, and prove that its outputs stayed.

    The outputs before and after are compared once for all passes. If an output differs by more than ``tolerance`` of
    its maximum, bisection finds the pass to blame. It is left out with a warning, and later passes run again.
    Nothing is run if nothing changed.
    """
    from onnxptq.passes import passes

    known = passes()
    for name in chosen:
        if name not in known:
            raise InputError(f"no pass is named {name!r}{nearest(name, known)}")
    settings = {name: known[name].settings(options) for name, options in chosen.items()}
    states = [("", model.copy())]
    changes: dict[str, list[Change]] = {}
    warnings: list[str] = []
    pending = list(chosen)
    while True:
        structure = discover(model)
        for batch in _batches([known[name] for name in pending]):
            before = len(states)
            for one, made in _run_batch(batch, model, structure, settings, fill):
                changes[one.name] = made
                if any(change.done for change in made):
                    states.append((one.name, model.copy()))
            if len(states) > before:
                structure = discover(model)
        drift, blame = prove(states, outputs, tolerance) if len(states) > 1 else ({}, None)
        if blame is None:
            made_in_order = tuple(change for made in changes.values() for change in made)
            return Passed(made_in_order, structure, drift, tuple(warnings))
        guilty = states[blame.state][0]
        warnings.append(f"pass {guilty!r} is left out: {blame} (allowed: {tolerance:g})")
        changes[guilty] = [known[guilty].left("model", f"{blame}, so it would not be exact")]
        del states[blame.state :]
        model.restore(states[-1][1])
        pending = pending[pending.index(guilty) + 1 :]


def _batches(chosen: Sequence[Pass]) -> Iterator[list[Pass]]:
    """Groups of consecutive passes whose statistics one walk can collect before any of them changes the model."""
    batch: list[Pass] = []
    moved: frozenset[str] = frozenset()
    for one in chosen:
        if batch and (one.reads & moved or one.restructures or batch[-1].restructures):
            yield batch
            batch, moved = [], frozenset()
        batch.append(one)
        moved |= one.moves
    if batch:
        yield batch


def _run_batch(
    batch: Sequence[Pass], model: Model, structure: Structure, settings: Mapping[str, Mapping[str, Any]], fill: Fill
) -> Iterator[tuple[Pass, list[Change]]]:
    """Each pass with its changes; one walk answers all first requests."""
    running = {one.name: one.run(model, structure, settings[one.name]) for one in batch if one.reads}
    asking = {name: Coroutine(run) for name, run in running.items() if isinstance(run, Generator)}
    first = asked(asking)
    together = {f"{name}:{key}": request for name, requests in first.items() for key, request in requests.items()}
    answer = fill(model, together, ", ".join(first)) if together else {}
    for one in batch:
        if one.name in first:
            asking[one.name].send({key: answer[f"{one.name}:{key}"] for key in first[one.name]})
            yield one, _finished(one.name, asking[one.name], model, fill, walk=2)
            continue
        run = running[one.name] if one.name in running else one.run(model, structure, settings[one.name])
        if isinstance(run, Generator):
            run = _finished(one.name, asking.get(one.name) or Coroutine(run), model, fill, walk=1)
        yield one, run


def _finished(
    name: str,
    running: Coroutine[Mapping[str, Request], Mapping[str, Statistic], list[Change]],
    model: Model,
    fill: Fill,
    walk: int,
) -> list[Change]:
    """Run one pass to its end; return its changes."""
    while not running.done:
        requests = running.asked
        running.send(fill(model, requests, f"{name}, walk {walk}") if requests else {})
        walk += 1
    return running.result
