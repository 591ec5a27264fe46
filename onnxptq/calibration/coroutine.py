"""Generators that request statistics: searches and passes yield requests, receive answers, and return a result."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Generic, TypeVar, cast

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
Result = TypeVar("Result")


class Coroutine(Generic[Asked, Answer, Result]):
    """A running generator: its open request, and its result once it has returned."""

    def __init__(self, generator: Generator[Asked, Answer, Result]) -> None:
        """Run to the first request."""
        self._generator = generator
        self._result: Result | None = None
        self.done = False
        self.asked = self._advance(lambda: next(generator))

    def send(self, answer: Answer) -> None:
        """Answer the open request and run to the next one."""
        self.asked = self._advance(lambda: self._generator.send(answer))

    @property
    def result(self) -> Result:
        """The value that the generator returned."""
        if not self.done:
            raise RuntimeError("the generator has not returned yet")
        return cast(Result, self._result)

    def _advance(self, step: Callable[[], Asked]) -> Asked:
        try:
            return step()
        except StopIteration as stop:
            self.done, self._result = True, stop.value
            return cast(Asked, None)


def asked(running: Mapping[str, Coroutine[Asked, Answer, Result]]) -> dict[str, Asked]:
    """The open requests, by name."""
    return {name: one.asked for name, one in running.items() if not one.done}
