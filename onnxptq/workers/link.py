"""Link: the connection to one worker; Workers: where links come from."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from onnxptq.errors import InputError, one_line

Make = Callable[[], Any]
"""Makes the object that a worker holds. It is sent to the worker, and all that it needs with it."""


class Lost(Exception):
    """A worker is gone; the message says what is known of its end."""


class Holder:
    """The far end of a link: the object, and the results of its methods."""

    def __init__(self) -> None:
        self._object: Any = None

    def hold(self, make: Make) -> Iterator[Any]:
        """Make the object; no result."""
        yield from self.release()
        self._object = make()

    def release(self) -> Iterator[Any]:
        """Drop the object, and close it if it can be closed; no result."""
        if hasattr(self._object, "close"):
            self._object.close()
        self._object = None
        yield from ()

    def call(self, method: str, indices: range, arguments: tuple[Any, ...]) -> Iterator[Any]:
        """The results of a method."""
        yield from getattr(self._object, method)(indices, *arguments)

    def answers(self, message: bytes) -> Iterator[bytes]:
        """Results, or an error, of a packed call: packed as well."""
        try:
            word, *rest = pickle.loads(message)
            for one in getattr(self, word)(*rest):
                yield packed((True, one))
        except Exception as error:
            yield _failure(error)


def packed(message: object, dumps: Callable[[object], bytes] = pickle.dumps) -> bytes:
    """The bytes of what is sent to a worker; an InputError where it cannot be sent."""
    try:
        return dumps(message)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"workers: these samples cannot be sent to another process ({one_line(error)}); give a folder or a data "
            f"set by name, or run without workers"
        ) from error


def result(answer: bytes) -> Any:
    """The result in an answer; its error is raised."""
    fine, held = pickle.loads(answer)
    if not fine:
        raise held
    return held


def _failure(error: Exception) -> bytes:
    """An error as an answer, as itself where it can be sent."""
    try:
        answer = pickle.dumps((False, error))
        pickle.loads(answer)
    except Exception:
        return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {one_line(error)}")))
    return answer


class Link(Protocol):
    """One worker. It holds one object; calls of the object's methods are answered in order."""

    def hold(self, parcel: Any) -> None:
        """Make a new object there, from a ``Workers.parcel``; it replaces the one before."""

    def call(self, method: str, indices: range, arguments: tuple[Any, ...]) -> None:
        """Start ``method(indices, *arguments)``, a generator of one result for each index."""

    def answer(self) -> Any:
        """The next result of the calls so far. Errors of the worker are raised here; Lost if it is gone."""

    def close(self, *, clean: bool) -> None:
        """Release the worker. Not ``clean``: results may be on their way."""


class Workers(Protocol):
    """A number of equal workers."""

    count: int
    remote: bool
    """Whether workers are other processes: what they get and give is a copy."""

    def parcel(self, make: Make) -> Any:
        """What makes an object on any of these workers: packed once for all of them."""

    def link(self) -> Link:
        """A worker that nobody else uses, a new one where needed."""

    def threads(self, wanted: int | None) -> int | None:
        """Threads of a session on one worker, where ``wanted`` were asked for."""

    def close(self) -> None:
        """End all workers."""


@contextmanager
def opened(count: int | None = None, engine: str | None = None) -> Iterator[Workers]:
    """``count`` workers: processes, or actors of Ray for engine ``ray`` or ``ray:ADDRESS``; None: this process."""
    from onnxptq.workers.here import HERE

    workers: Workers = HERE
    kind, _, address = (engine or "processes").partition(":")
    if kind == "ray":
        from onnxptq.workers.cluster import Cluster

        workers = Cluster(count, address or None)
    elif kind != "processes" or address:
        raise InputError(f"--engine {engine}: use processes, ray or ray:ADDRESS")
    elif count is not None:
        from onnxptq.workers.processes import Processes

        workers = Processes(count)
    try:
        yield workers
    finally:
        workers.close()
