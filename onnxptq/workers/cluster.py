"""Cluster: workers are actors of Ray, on this machine or on a cluster that is running."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import deque
from typing import Any

from onnxptq.errors import InputError, one_line
from onnxptq.workers.link import Holder, Lost, Make, packed, result

AHEAD = 2
"""Results that a worker computes before the earlier ones are fetched."""


class _Actor:
    """The far end, in a process of Ray. It speaks bytes: Ray would wrap errors in its own."""

    def __init__(self) -> None:
        self._holder = Holder()

    def run(self, message: bytes) -> Any:
        """The results of one call."""
        yield from self._holder.answers(message)


class ClusterLink:
    """One actor, and the results that are on their way."""

    def __init__(self, ray: Any, share: float) -> None:
        self._ray = ray
        self._actor = ray.remote(num_cpus=share, max_restarts=0)(_Actor).remote()
        self._running: deque[Any] = deque()

    def hold(self, parcel: Any) -> None:
        """See Link."""
        self._start(parcel)

    def call(self, method: str, indices: range, arguments: tuple[Any, ...]) -> None:
        """See Link."""
        self._start(packed(("call", method, indices, arguments), self._ray.cloudpickle.dumps))

    def answer(self) -> Any:
        """See Link."""
        from ray.exceptions import RayActorError, RayTaskError

        try:
            while True:
                try:
                    return result(self._ray.get(next(self._running[0])))
                except StopIteration:
                    self._running.popleft()
        except RayActorError as error:
            raise Lost(one_line(error)) from None
        except RayTaskError as error:
            raise InputError(f"workers: Ray could not start one: {one_line(error.cause)}") from error

    def close(self, *, clean: bool) -> None:
        """See Link."""
        self._running.clear()
        if clean:
            with contextlib.suppress(self._ray.exceptions.RayError):
                list(self._actor.run.options(num_returns="streaming").remote(packed(("release",))))
        self._ray.kill(self._actor)

    def _start(self, message: Any) -> None:
        run = self._actor.run.options(num_returns="streaming", _generator_backpressure_num_objects=AHEAD)
        self._running.append(run.remote(message))


class Cluster:
    """See Workers. Without an address: a Ray of its own on this machine, unless RAY_ADDRESS names one."""

    remote = True

    def __init__(self, count: int | None, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise InputError("--engine ray: Ray is not installed; pip install 'onnxptq[scale]'") from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        self._ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"--engine ray: no cluster at {address or 'this machine'}: {one_line(error)}"
                ) from error
        cores = int(ray.cluster_resources().get("CPU", 1))
        self.count = count or max(1, cores // 4)
        self._share = math.floor(100 * cores / self.count) / 100 if self.count > cores else cores // self.count

    def parcel(self, make: Make) -> Any:
        """In Ray's store, which copies it once to each node."""
        return self._ray.put(packed(("hold", make), self._ray.cloudpickle.dumps))

    def link(self) -> ClusterLink:
        """See Workers."""
        return ClusterLink(self._ray, self._share)

    def threads(self, wanted: int | None) -> int | None:
        """The cluster's cores divided among the workers."""
        return wanted or max(1, int(self._share))

    def close(self) -> None:
        """See Workers."""
        if self._ours:
            self._ray.shutdown()
