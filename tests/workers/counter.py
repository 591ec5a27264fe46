"""An object that workers hold in the tests: it counts, and can be made to die or to fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path


class Counter:
    """Answers twice the index, and what was added before."""

    def __init__(self) -> None:
        self._more = 0

    def add(self, indices: range, more: int) -> Iterator[int]:
        self._more += more
        yield from indices

    def double(self, indices: range) -> Iterator[int]:
        for index in indices:
            yield 2 * index + self._more

    def die(self, indices: range, at: int, flag: Path | None) -> Iterator[int]:
        """Killed at one index: the first time, or always without ``flag``."""
        for index in indices:
            if index == at and (flag is None or not flag.exists()):
                if flag is not None:
                    flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield 2 * index + self._more

    def fail(self, indices: range, at: int) -> Iterator[int]:
        for index in indices:
            if index >= at:
                raise FileNotFoundError(f"sample {index}")
            yield index

    def process(self, indices: range) -> Iterator[int]:
        for _ in indices:
            yield os.getpid()
