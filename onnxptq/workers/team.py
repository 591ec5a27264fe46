"""Team: the same object on every worker, each for its own samples. One that dies is replaced, its samples redone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from onnxptq.errors import InputError
from onnxptq.workers.link import Link, Lost, Make, Workers

PATIENCE = 3
"""How often a worker may die on the same sample."""


class Team:
    """Holds ``make()`` on each of at most ``most`` workers.

    A replaced worker gets a new object and repeats the calls that change it; of other calls it answers what is missing.
    """

    def __init__(self, workers: Workers, make: Make, *, most: int) -> None:
        self._workers, self._make = workers, make
        self._count = max(1, min(workers.count, most))
        self._links: list[Link] = []
        self._changes: list[tuple[str, range, tuple[Any, ...]]] = []
        self._clean = True

    def __enter__(self) -> Self:
        parcel = self._workers.parcel(self._make)
        for _ in range(self._count):
            self._links.append(self._workers.link())
        for link in self._links:
            with suppress(Lost):  # its answer will say so
                link.hold(parcel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for link in self._links:
            link.close(clean=self._clean)

    def ask(self, method: str, indices: range, *arguments: Any, changes: bool = False) -> Iterator[Any]:
        """One result for each index, in order. ``changes``: the call changes the objects for later calls."""
        parts = [_part(indices, member, self._count) for member in range(self._count)]
        taken = [0] * self._count
        self._clean = False
        for member, part in enumerate(parts):
            self._call(member, method, part, arguments)
        for index in indices:
            member = index % self._count
            yield self._answer(member, method, parts[member], taken[member], arguments, changes)
            taken[member] += 1
        self._clean = True
        if changes:
            self._changes.append((method, indices, arguments))

    def _call(self, member: int, method: str, part: range, arguments: tuple[Any, ...]) -> None:
        with suppress(Lost):  # its answer will say so
            self._links[member].call(method, part, arguments)

    def _answer(
        self, member: int, method: str, part: range, taken: int, arguments: tuple[Any, ...], changes: bool
    ) -> Any:
        for attempt in range(PATIENCE):
            try:
                if attempt:
                    self._replace(member)
                    begun = part if changes else part[taken:]
                    self._links[member].call(method, begun, arguments)
                    for _ in range(taken if changes else 0):
                        self._links[member].answer()
                return self._links[member].answer()
            except Lost as error:
                lost = error
        raise InputError(
            f"workers: one died {PATIENCE} times on sample {part[taken]} or just after it ({lost}); give fewer "
            f"--workers, or a lower --memory-limit"
        )

    def _replace(self, member: int) -> None:
        """A new worker in the state of the lost one before this call."""
        self._links[member].close(clean=False)
        link = self._links[member] = self._workers.link()
        link.hold(self._workers.parcel(self._make))
        for method, indices, arguments in self._changes:
            part = _part(indices, member, self._count)
            link.call(method, part, arguments)
            for _ in part:
                link.answer()


def _part(indices: range, member: int, count: int) -> range:
    """The indices that belong to one member."""
    first = indices.start + (member - indices.start) % count
    return range(first, indices.stop, count)
