"""Here: the one worker that is this process. Nothing is copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnxptq.workers.link import Holder, Make


class HereLink:
    """Each result is computed when it is asked for."""

    def __init__(self) -> None:
        self._holder = Holder()
        self._results: Iterator[Any] = iter(())

    def hold(self, parcel: Make) -> None:
        """See Link."""
        list(self._holder.hold(parcel))

    def call(self, method: str, indices: range, arguments: tuple[Any, ...]) -> None:
        """See Link."""
        list(self._results)  # what a method does after its last result
        self._results = self._holder.call(method, indices, arguments)

    def answer(self) -> Any:
        """See Link."""
        return next(self._results)

    def close(self, *, clean: bool) -> None:
        """See Link."""
        list(self._holder.release())
        self._results = iter(())


class Here:
    """See Workers."""

    count = 1
    remote = False

    def parcel(self, make: Make) -> Make:
        """The same."""
        return make

    def link(self) -> HereLink:
        """See Workers."""
        return HereLink()

    def threads(self, wanted: int | None) -> int | None:
        """As wanted."""
        return wanted

    def close(self) -> None:
        """See Workers."""


HERE = Here()
"""The default."""
