"""Seconds and peak memory of the stages of a run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from onnxptq.report.data import Stage


class Stopwatch:
    """Seconds and peak memory of each stage of a run."""

    def __init__(self, tell: Callable[[str], AbstractContextManager[object]] = nullcontext) -> None:
        self.stages: list[Stage] = []
        self._tell = tell
        """Learns of each stage: a context around it."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the block; a stage that fails is not recorded."""
        start = time.perf_counter()
        with self._tell(name):
            yield
        self.stages.append(Stage(name, time.perf_counter() - start, peak_memory()))


def peak_memory() -> int | None:
    """Peak resident memory of this process so far, bytes; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: Linux includes the memory of the process that started this one.
        return next(
            (1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None
        )
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
