"""Processes: workers on this machine. They live until the end of the run, one object after the other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from onnxptq.workers.link import Holder, Lost, Make, packed, result

_SPAWN = multiprocessing.get_context("spawn")
"""A fork would copy onnxruntime's threads without what they do."""
PATIENCE = 5.0
"""Seconds in which a worker that is no longer needed has to end by itself."""
AHEAD = 2
"""Results that a worker computes before the earlier ones are fetched."""


class ProcessLink:
    """One process, and the pipe to it."""

    def __init__(self, pool: Processes) -> None:
        self._pool = pool
        self._pipe, theirs = _SPAWN.Pipe()
        self.process: BaseProcess = _SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def hold(self, parcel: bytes) -> None:
        """See Link."""
        self._send(parcel)

    def call(self, method: str, indices: range, arguments: tuple[Any, ...]) -> None:
        """See Link."""
        self._send(packed(("call", method, indices, arguments)))

    def answer(self) -> Any:
        """See Link."""
        try:
            data = self._pipe.recv_bytes()
        except (EOFError, OSError):
            self.process.join(1)
            raise Lost(_end(self.process.exitcode)) from None
        return result(data)

    def close(self, *, clean: bool) -> None:
        """See Link."""
        if clean:
            with contextlib.suppress(Lost):
                self._send(packed(("release",)))
                self._pool.idle.append(self)
                return
        self.end()

    def end(self) -> None:
        """End the process."""
        self._pipe.close()
        self.process.terminate()
        self.process.join(PATIENCE)
        self.process.kill()
        self.process.join()

    def _send(self, message: bytes) -> None:
        """The message to the worker; where that is gone, Lost now or at the next answer."""
        try:
            self._pipe.send_bytes(message)
        except OSError:
            raise Lost(_end(self.process.exitcode)) from None


class Processes:
    """See Workers."""

    remote = True

    def __init__(self, count: int) -> None:
        self.count = count
        self.idle: list[ProcessLink] = []

    def parcel(self, make: Make) -> bytes:
        """See Workers."""
        return packed(("hold", make))

    def link(self) -> ProcessLink:
        """See Workers."""
        while self.idle:
            link = self.idle.pop()
            if link.process.is_alive():
                return link
        return ProcessLink(self)

    def threads(self, wanted: int | None) -> int | None:
        """The cores divided among the workers."""
        from onnxptq.machine import cores

        return wanted if wanted is not None else max(1, cores() // self.count)

    def close(self) -> None:
        """See Workers."""
        while self.idle:
            self.idle.pop().end()


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return "ended" if code is None else f"exit {code}"


def _serve(pipe: Connection) -> None:
    """The worker: answers calls until the pipe closes. The driver alone hears Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ready: queue.Queue[bytes] = queue.Queue(AHEAD)
    threading.Thread(target=_deliver, args=(pipe, ready), daemon=True).start()
    holder = Holder()
    try:
        with contextlib.suppress(EOFError, OSError):
            while True:
                for answer in holder.answers(pipe.recv_bytes()):
                    ready.put(answer)
    finally:
        list(holder.release())


def _deliver(pipe: Connection, ready: queue.Queue[bytes]) -> None:
    """Send answers while the next ones are computed."""
    with contextlib.suppress(OSError):
        while True:
            pipe.send_bytes(ready.get())
    os._exit(1)  # the driver is gone
