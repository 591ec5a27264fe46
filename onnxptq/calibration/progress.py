"""Progress of a run: one bar over all of it on a terminal, one line a stage in a pipe, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich import progress as rich_progress

Advance = Callable[[], None]
_SECONDS = 30.0
"""Seconds after which a long step says in a pipe how far it is."""
_LONG = 1.0
_SHARES = {"passes": 10, "calibration": 15, "weights": 45, "selection": 12, "guard": 8, "lower": 1, "verify": 2}
"""Typical parts of a run's time, in per cent; others take 5. What is left to go corrects itself as stages end."""
_STEP = 0.7
"""Part of what is left of a stage that its next step takes: how many steps follow is not known."""
_KNOWN = 0.03
"""Part of a run after which the time to go can be told."""


class Progress(Protocol):
    """Receives the stages of a run, and the long steps in each."""

    def expect(self, stages: Sequence[str]) -> None:
        """Announce the stages of a run, in order."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """A context in which a stage runs."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A context that gives a function to call once for each of ``total`` finished parts of a step."""


class Silent:
    """Shows nothing."""

    def expect(self, stages: Sequence[str]) -> None:
        """See Progress."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """See Progress."""
        return nullcontext()

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """See Progress."""
        return nullcontext(lambda: None)


class Titled(Silent):
    """The steps of a part of a run under its title; its stages belong to the stage around it."""

    def __init__(self, title: str, progress: Progress) -> None:
        self._title, self._progress = title, progress

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """See Progress."""
        return self._progress.task(f"{self._title}: {label}", total)


class Lines(Silent):
    """One line when a stage ends that took a second or more, and one every half minute before."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._stage = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See Progress."""
        start, outer = self._clock(), self._stage
        self._stage = True
        try:
            yield
        finally:
            self._stage = outer
        self._done(name, start)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """See Progress."""
        start = said = self._clock()
        done = 0

        def advance() -> None:
            nonlocal done, said
            done += 1
            if self._clock() - said >= _SECONDS and done < total:
                said = self._clock()
                left = (said - start) / done * (total - done)
                print(f"{label}: {done} of {total}, {left:.0f} s to go", file=self._stream, flush=True)

        yield advance
        if not self._stage:
            self._done(label, start)

    def _done(self, label: str, start: float) -> None:
        if self._clock() - start >= _LONG:
            print(f"{label}: done in {self._clock() - start:.1f} s", file=self._stream, flush=True)


class Bar:
    """One bar over the whole run, with the step at hand and the time to go; nothing of it stays on the screen."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._start: float | None = None
        self._ahead: list[str] = []
        self.done = 0.0
        """Part of the run that is done, 0 to 1."""
        self._end = 1.0
        """What is done when the current stage ends."""
        self._shown: tuple[rich_progress.Progress, rich_progress.TaskID] | None = None

    def expect(self, stages: Sequence[str]) -> None:
        """See Progress."""
        self._ahead, self.done, self._end, self._start = list(stages), 0.0, 1.0, self._clock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See Progress."""
        if name in self._ahead:
            del self._ahead[: self._ahead.index(name) + 1]
        own, left = _SHARES.get(name, 5), sum(_SHARES.get(one, 5) for one in self._ahead)
        outer, self._end = self._end, self.done + (self._end - self.done) * own / (own + left)
        with self._live():
            self._show(name)
            yield
            self.done, self._end = self._end, outer
            self._show(name)

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """See Progress."""
        first, count = self.done, 0
        share = _STEP if self._shown is not None else 0.0 if self._ahead else 1.0
        reach = (self._end - first) * share

        def advance() -> None:
            nonlocal count
            count += 1
            self.done = first + reach * min(count / max(total, 1), 1.0)
            self._show(f"{label}, {count} of {total}")

        with self._live():
            self._show(f"{label}, 0 of {total}")
            yield advance

    @contextmanager
    def _live(self) -> Iterator[None]:
        """A context in which the bar is on the screen."""
        if self._shown is not None:
            yield
            return
        from rich import progress
        from rich.console import Console

        if self._start is None:
            self._start = self._clock()
        columns = (
            progress.BarColumn(24),
            progress.TaskProgressColumn(),
            progress.TextColumn("{task.fields[left]}"),
            progress.TextColumn("{task.description}", markup=False),
        )
        with progress.Progress(*columns, console=Console(file=self._stream), transient=True) as shown:
            self._shown = (shown, shown.add_task("", total=1.0, left=""))
            self._show("")
            try:
                yield
            finally:
                self._shown = None

    def _show(self, label: str) -> None:
        if self._shown is not None and self._start is not None:
            shown, task = self._shown
            spent = self._clock() - self._start
            left = _words(spent / self.done * (1 - self.done)) if self.done >= _KNOWN else ""
            shown.update(task, description=label, completed=self.done, left=left)


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min to go" if seconds >= 120 else f"{seconds:.0f} s to go"


def progress_on(stream: TextIO | None = None, *, quiet: bool = False) -> Progress:
    """The Progress for a stream (standard error by default, so that standard output stays machine-readable)."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Silent()
    return Bar(stream) if stream.isatty() else Lines(stream)
