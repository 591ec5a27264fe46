"""What a pass is, and how passes are run: statistics first, then the change, then the proof that outputs stayed."""

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
"""One walk over the samples with the model as it is now: (model, requests, stage name) -> the filled statistics. No
name comes twice."""
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Change:
    """One thing a pass did, or (``done`` False) why it left a place alone; for the report."""

    pass_name: str
    where: str
    what: str
    done: bool = True
    data: Mapping[str, Any] = field(default_factory=dict)
    """Plain numbers and lists behind the decision, for drawing."""


@dataclass(frozen=True)
class Passed:
    """What the passes did, the structure of the model as it is now, and how far each output moved."""

    changes: tuple[Change, ...]
    structure: Structure
    drift: Mapping[str, float] = field(default_factory=dict)
    """Output name -> signal to difference, dB (inf: not a bit moved). Empty where nothing was changed, so nothing was
    run."""
    warnings: tuple[str, ...] = ()
    """Passes that were left out because their proof failed."""


class Pass(ABC):
    """An equivalence pass. Subclasses are registered by being defined.

    ``run`` is a generator: it may yield requests for statistics (name -> which tensor, which empty statistic), is
    answered with the filled statistics, changes the model in place, and returns its changes; [] means there was nothing
    to do. Up to its first request it only reads; what it needs to know of weights and biases it reads from the model
    after the answer.
    """

    name: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    """Option names with defaults; set by recipes and ``--set``."""
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """The values an option may take, where they can be listed."""
    limits: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """The lowest and the highest value of options that are numbers."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """Kinds of tensors it asks statistics of: any of ``query``, ``key``, ``value``, ``norm`` (what a LayerNormalization
    puts out)."""
    moves: ClassVar[frozenset[str]] = frozenset()
    """Kinds of tensors whose values it changes. Passes that read nothing an earlier one moves share a walk over the
    samples."""
    restructures: ClassVar[bool] = False
    """Whether nodes that the structure names may be gone afterwards."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name in REGISTRY:
            raise TypeError(
                f"two passes are named {cls.name!r}: {type(REGISTRY[cls.name]).__module__} and {cls.__module__}"
            )
        REGISTRY[cls.name] = cls()

    @abstractmethod
    def run(self, model: Model, structure: Structure, options: Mapping[str, Any]) -> Asking:
        """Change ``model``; see the class. ``options`` holds every option."""

    def left(self, where: str, why: str) -> Change:
        """The entry of a place left alone."""
        return Change(self.name, where, f"left alone: {why}", done=False)

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All options, defaults filled in; a wrong one is an InputError."""
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

    The outputs before and after are compared once for all passes. Only when they differ by more than ``tolerance`` of
    an output's maximum is the guilty pass searched for, by halving: it is left out with a warning, and the passes after
    it run again without it. Nothing is run where nothing changed.
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
    """Runs of passes whose statistics can be taken in one walk, before any of them changes the model."""
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
    """Each pass with its changes, the first requests of all answered together."""
    running = {one.name: Coroutine(one.run(model, structure, settings[one.name])) for one in batch if one.reads}
    first = asked(running)
    together = {f"{name}:{key}": request for name, requests in first.items() for key, request in requests.items()}
    answer = fill(model, together, ", ".join(first)) if together else {}
    for one in batch:
        if one.name in first:
            running[one.name].send({key: answer[f"{one.name}:{key}"] for key in first[one.name]})
        else:
            running.setdefault(one.name, Coroutine(one.run(model, structure, settings[one.name])))
        yield one, _finished(one.name, running[one.name], model, fill, walk=2 if one.name in first else 1)


def _finished(
    name: str,
    running: Coroutine[Mapping[str, Request], Mapping[str, Statistic], list[Change]],
    model: Model,
    fill: Fill,
    walk: int,
) -> list[Change]:
    """The changes of one pass, driven to its end."""
    while not running.done:
        requests = running.asked
        running.send(fill(model, requests, f"{name}, walk {walk}") if requests else {})
        walk += 1
    return running.result
