"""Progress of long steps: a bar on a terminal, plain lines in a pipe, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

Advance = Callable[[], None]
_SECONDS = 10.0
_LONG = 1.0


class Progress(Protocol):
    """Receives each long step and its parts."""

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """A context that gives a function to call once for each of ``total`` finished parts."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """See Progress."""
        yield lambda: None


class Titled:
    """Adds a title to another Progress."""

    def __init__(self, title: str, progress: Progress) -> None:
        self._title, self._progress = title, progress

    def task(self, label: str, total: int) -> AbstractContextManager[Advance]:
        """See Progress."""
        return self._progress.task(f"{self._title}: {label}", total)


class Lines:
    """One line when a step ends that took a second or more, and one every ten seconds before."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock

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
        if self._clock() - start >= _LONG:
            print(f"{label}: done in {self._clock() - start:.1f} s", file=self._stream, flush=True)


class Bar:
    """A bar that disappears when the step is done."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def task(self, label: str, total: int) -> Iterator[Advance]:
        """See Progress."""
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(file=self._stream), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda: bar.advance(task)


def progress_on(stream: TextIO | None = None, *, quiet: bool = False) -> Progress:
    """The Progress for a stream (standard error by default, so that standard output stays machine-readable)."""
    stream = sys.stderr if stream is None else stream
    if quiet:
        return Silent()
    return Bar(stream) if stream.isatty() else Lines(stream)
